"""Inference: continuous batching over a paged KV cache that layers share in pairs."""

from kaiyuan.inference.engine import Engine
from kaiyuan.inference.outputs import Completion, Piece, TokenLogprob
from kaiyuan.inference.params import Grammar, SamplingParams

__all__ = ["Completion", "Engine", "Grammar", "Piece", "SamplingParams", "TokenLogprob"]
