"""The tokenizer stage: train one (or take one over), then turn the corpus into token shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.pipeline import HELD_OUT
from kaiyuan.corpus.shards import write_shards
from kaiyuan.corpus.sources import Document
from kaiyuan.corpus.stage import training_documents
from kaiyuan.files import read_jsonl, write_json
from kaiyuan.progress import say
from kaiyuan.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from kaiyuan.run import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Write the tokenizer's files, shards/train, shards/heldout and report.json."""
    section, corpus = context.recipe.tokenizer, context.input("corpus")
    documents = list(training_documents(corpus))
    if section.path:
        tokenizer = load_tokenizer(Path(section.path))
    else:
        tokenizer = train_tokenizer((document.text for document in documents), section.vocab_size)
    tokenizer.save(context.folder)
    held_out = [Document(**row) for row in read_jsonl(corpus / HELD_OUT)]
    train = write_shards(documents, tokenizer.for_documents(), context.folder / "shards", "train")
    if held_out:
        write_shards(held_out, tokenizer.for_documents(), context.folder / "shards", "heldout")
    rates = compression(tokenizer, held_out or documents)
    report = {
        "vocab_size": tokenizer.vocab_size,
        "trained": not section.path,
        "characters_per_token": rates,
        "shards": {label: {"tokens": entry["tokens"], "documents": entry["documents"], "bytes": entry["bytes"]}
                   for label, entry in train["labels"].items()},
    }  # fmt: skip
    write_json(context.folder / "report.json", report)
    shown = ", ".join(f"{language} {rate:.2f}" for language, rate in rates.items())
    say(f"tokenizer: {tokenizer.vocab_size} ids; characters per token: {shown}")
    return report


def compression(tokenizer: Tokenizer, documents: list[Document]) -> dict[str, float]:
    """Characters per token by language."""
    rates = {}
    for language in sorted({document.language for document in documents}):
        texts = [document.text for document in documents if document.language == language]
        tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
        rates[language] = round(sum(map(len, texts)) / tokens, 4)
    return rates
