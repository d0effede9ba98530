"""kaiyuan (开元): the open system for making and running language models of the Hunyuan-Large kind.

Nothing heavy is imported here: the names below load their module on first use, so ``import kaiyuan`` costs milliseconds
and the command line answers ``--help`` without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Engine": "kaiyuan.inference",
    "KaiyuanError": "kaiyuan.errors",
    "ModelConfig": "kaiyuan.model.config",
    "SamplingParams": "kaiyuan.inference",
    "load_model": "kaiyuan.checkpoint",
    "load_tokenizer": "kaiyuan.tokenizer",
    "save_model": "kaiyuan.checkpoint",
}

if TYPE_CHECKING:
    from kaiyuan.checkpoint import load_model, save_model
    from kaiyuan.errors import KaiyuanError
    from kaiyuan.inference import Engine, SamplingParams
    from kaiyuan.model.config import ModelConfig
    from kaiyuan.tokenizer import load_tokenizer

__all__ = ["Engine", "KaiyuanError", "ModelConfig", "SamplingParams", "load_model", "load_tokenizer", "save_model"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'kaiyuan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
