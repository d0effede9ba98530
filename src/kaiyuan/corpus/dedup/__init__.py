"""One document of many that say the same: by URL, by text, by near-equality (MinHash), and lines that many share.

What is kept never depends on the order of documents or on who did what: of several, the best stays (``records``), and
who is compared with whom is decided by hashes alone. Documents are worked on as records of some 430 bytes on disk;
memory holds as many of them as it may (``groups``), so the corpus can be larger than memory.
"""

from kaiyuan.corpus.dedup.choice import Decisions, decide
from kaiyuan.corpus.dedup.lines import common_lines
from kaiyuan.corpus.dedup.records import Records, record_type
from kaiyuan.corpus.dedup.signature import Signer, bands, shingles
from kaiyuan.corpus.dedup.urls import normalized_url

__all__ = [
    "Decisions",
    "Records",
    "Signer",
    "bands",
    "common_lines",
    "decide",
    "normalized_url",
    "record_type",
    "shingles",
]
