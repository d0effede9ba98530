"""Where documents come from: the demo corpus inside of the package, and the user's own files in many formats.

``Source`` says what to read and how, one module a format reads it, and whatever cannot be read becomes a ``Dead``
record with its place and reason, so that one damaged record never ends a run. See docs/sources.md.
"""

from kaiyuan.corpus.sources.demo import SourceInfo, demo_documents, demo_sources
from kaiyuan.corpus.sources.document import Dead, Document, Item, document_id
from kaiyuan.corpus.sources.reading import read_documents, read_part
from kaiyuan.corpus.sources.spec import Source

__all__ = [
    "Dead",
    "Document",
    "Item",
    "Source",
    "SourceInfo",
    "demo_documents",
    "demo_sources",
    "document_id",
    "read_documents",
    "read_part",
]
