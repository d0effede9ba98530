"""What quantisation costs: bits per byte of the same text before and after."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from kaiyuan.evaluation.bits_per_byte import bits_per_byte

SAMPLE_BYTES = 64 * 2**10
"""Text of each language: the third digit of the ratio does not change with more."""
_CONTEXT = 512


def quality_change(before: str | Path, after: str | Path) -> str:
    """One line a language: bits per byte of sample text (from the demo corpus, which the model may have seen) with the
    folder ``before`` and with ``after``, and the change in percent.
    """
    rates = [_rates(Path(folder)) for folder in (before, after)]
    if rates[0] is None or rates[1] is None:
        return "no tokenizer in the folder: bits per byte were not compared"
    return "\n".join(
        f"{language}: {old:.4f} bits/byte before, {new:.4f} after ({100 * (new / old - 1):+.2f}%)"
        for (language, old), new in zip(rates[0].items(), rates[1].values(), strict=True)
    )


def _rates(folder: Path) -> dict[str, float] | None:
    from kaiyuan.inference.engine import load

    model, tokenizer = load(folder)
    if tokenizer is None:
        return None
    context = min(_CONTEXT, model.config.max_position_embeddings)
    found = bits_per_byte(model, tokenizer, sample_texts(), context)
    return {language: row["bits_per_byte"] for language, row in found.items()}


def sample_texts() -> list[dict[str, Any]]:
    """Beginnings of documents of the demo corpus, ``SAMPLE_BYTES`` of each language."""
    from kaiyuan.corpus.sources import demo_documents

    sizes: dict[str, int] = defaultdict(int)
    texts = []
    for document in demo_documents():
        if document.language in ("en", "zh") and sizes[document.language] < SAMPLE_BYTES:
            text = document.text[: SAMPLE_BYTES // 8]
            sizes[document.language] += len(text.encode("utf-8"))
            texts.append({"text": text, "language": document.language})
    return texts
