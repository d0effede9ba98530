"""Folders of ours with quantised weights, which the plugin does not read: refused where vLLM asks who reads them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kaiyuan.errors import ConfigError


def refuse_quantized(architectures: Collection[str]) -> None:
    """Make vLLM stop with a ``ConfigError`` at a folder of ``architectures`` that has a ``quantization_config``."""
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

    class Refused(QuantizationConfig):
        """Of a quantisation's interface only the question whether it takes a folder over."""

        @classmethod
        def override_quantization_method(cls, hf_quant_cfg: Any, user_quant: str | None, hf_config: Any = None) -> None:
            if set(getattr(hf_config, "architectures", None) or ()) & set(architectures):
                raise ConfigError(
                    "this folder holds quantised weights, which the vLLM plugin does not read: decode it with "
                    "`kaiyuan convert SRC DST`, serve DST, and let vLLM quantise (`--quantization fp8`)"
                )

    register_quantization_config("kaiyuan")(Refused)
