"""Where vectors come from: an OpenAI-compatible endpoint, or the hidden states of a model of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kaiyuan.corpus.scores.encoders import Embed
from kaiyuan.errors import DataError, KaiyuanError

CHARACTERS = 4000
"""Of a text that an endpoint is sent."""


def endpoint_embedding(base_url: str, model: str, api_key_env: str = "", batch: int = 64) -> Embed:
    """Vectors of ``POST base_url/embeddings``; a ``DataError`` says what the endpoint answered instead."""
    try:
        import httpx
    except ImportError:
        raise KaiyuanError("asking models needs httpx: pip install 'kaiyuan[synthesis]'") from None
    key = os.environ.get(api_key_env, "") if api_key_env else ""
    headers = {"authorization": f"Bearer {key}"} if key else {}

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        found: list[list[float]] = []
        with httpx.Client(base_url=base_url.rstrip("/") + "/", headers=headers, timeout=120) as client:
            for start in range(0, len(texts), batch):
                part = [text[:CHARACTERS] or " " for text in texts[start : start + batch]]
                try:
                    reply = client.post("embeddings", json={"model": model, "input": part})
                    reply.raise_for_status()
                    rows = sorted(reply.json()["data"], key=lambda row: row["index"])
                    vectors = [list(map(float, row["embedding"])) for row in rows]
                except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
                    raise DataError(f"{base_url}: no embeddings: {str(error).splitlines()[0]}") from None
                if len(vectors) != len(part):
                    raise DataError(f"{base_url}: {len(vectors)} embeddings for {len(part)} texts")
                found += vectors
        return np.array(found, dtype=np.float32)

    return embed


def model_embedding(folder: Path, tokens: int = 512) -> Embed:
    """The mean of the last hidden states over the first ``tokens`` tokens, by the model in ``folder``."""
    from kaiyuan import load_model, load_tokenizer

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    model.eval()

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = []
        with torch.inference_mode():
            for text in texts:
                ids = tokenizer.encode(text[: 8 * tokens])[:tokens] or [0]
                rows.append(model.hidden_states(torch.tensor([ids]))[-1][0].float().mean(0).numpy())
        return np.stack(rows)

    return embed
