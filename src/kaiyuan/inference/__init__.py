"""Generation: sampling parameters, and the engine that keeps one KV cache for every group of layers that share keys."""

from kaiyuan.inference.engine import Completion, Engine
from kaiyuan.inference.sampling import SamplingParams

__all__ = ["Completion", "Engine", "SamplingParams"]
