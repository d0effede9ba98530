"""Bits per byte of held-out text: what an ideal coder driven by the model needs, whatever the tokenizer.

Loss per token cannot be compared between tokenizers, nor with a compressor; bits per UTF-8 byte can be compared with
both.

Shapes: B windows, T tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kaiyuan.errors import DataError
from kaiyuan.model.loss import target_log_probs
from kaiyuan.model.transformer import Transformer
from kaiyuan.progress import Progress

if TYPE_CHECKING:
    from kaiyuan.tokenizer import Tokenizer

_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Window:
    """One forward pass: ``tokens[:-1]`` go in, the last ``scored`` of ``tokens[1:]`` are counted."""

    language: str
    tokens: Sequence[int]
    scored: int

    @property
    def inputs(self) -> int:
        return len(self.tokens) - 1


def windows(language: str, tokens: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Overlapping windows of at most ``context`` inputs over one document; each token but the first is scored once.

    After the first window every scored token sees at least ``context - stride`` tokens before it. The last window is
    moved back to the document's end, so that it is as long as the others.
    """
    last = len(tokens) - 1
    scored_to = 0
    while scored_to < last:
        end = min(context if scored_to == 0 else scored_to + stride, last)
        start = max(0, end - context)
        yield Window(language, tokens[start : end + 1], end - scored_to)
        scored_to = end


def bits_per_byte(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[Mapping[str, Any]],
    context: int,
    stride: int | None = None,
) -> dict[str, dict[str, float]]:
    """Negative log2-likelihood of every document (``text``, ``language``) over its UTF-8 bytes, by language.

    A document starts after the document-end token, as in training. It is read through windows of ``context`` tokens
    that advance by ``stride`` (default: half). Returns ``{language: {bits_per_byte, bytes, tokens, documents}}``.
    """
    stride = context // 2 if stride is None else stride
    if not 1 <= stride <= context:
        raise DataError(f"stride: {stride} is not between 1 and the context of {context}")
    documents = [document for document in documents if document["text"]]
    encoded = tokenizer.encode_batch([document["text"] for document in documents])
    found = [
        window
        for document, ids in zip(documents, encoded, strict=True)
        for window in windows(document["language"], [tokenizer.document_end_id, *ids], context, stride)
    ]
    nats = _negative_log_likelihood(model, found)
    totals: dict[str, dict[str, float]] = {}
    for language in sorted(nats):
        texts = [document["text"] for document in documents if document["language"] == language]
        size = sum(len(text.encode("utf-8")) for text in texts)
        tokens = sum(window.scored for window in found if window.language == language)
        totals[language] = {
            "bits_per_byte": nats[language] / math.log(2) / size,
            "bytes": size,
            "tokens": tokens,
            "documents": len(texts),
        }
    return totals


@torch.inference_mode()
def _negative_log_likelihood(model: Transformer, found: Sequence[Window]) -> dict[str, float]:
    """Nats by language. Rows are padded at their end, where causal attention hides it from everything scored."""
    model.eval()
    nats: dict[str, float] = defaultdict(float)
    with Progress("held-out text", sum(window.inputs for window in found), "tokens") as progress:
        for batch in _batches(found):
            width = max(window.inputs for window in batch)
            tokens = torch.zeros(len(batch), width + 1, dtype=torch.int64)
            counted = torch.zeros(len(batch), width, dtype=torch.bool)
            for row, window in enumerate(batch):
                tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
                counted[row, window.inputs - window.scored : window.inputs] = True
            tokens, counted = tokens.to(model.device), counted.to(model.device)
            x_BTD = model.features(tokens[:, :-1]).x_BTD
            log_probs = target_log_probs(x_BTD[counted], model.head_weight, tokens[:, 1:][counted])
            start = 0
            for window in batch:
                nats[window.language] -= float(log_probs[start : start + window.scored].double().sum())
                start += window.scored
            progress.update(sum(window.inputs for window in batch))
    return dict(nats)


def _batches(found: Sequence[Window]) -> Iterator[list[Window]]:
    """Windows of similar length together, as many as make ``_BATCH_TOKENS`` tokens."""
    batch: list[Window] = []
    for window in sorted(found, key=lambda window: window.inputs):
        if batch and (len(batch) + 1) * window.inputs > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
