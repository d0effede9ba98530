"""``config.json`` as vLLM and transformers want to see it: an object that finds the file's keys under their names.

It is for vLLM's own questions alone (how many layers, how many heads); what the model computes is read strictly by
``kaiyuan.checkpoint.read_config``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from kaiyuan.errors import ConfigError

_Base: Any = object  # without transformers the module can be imported all the same
if find_spec("transformers"):
    from transformers import PretrainedConfig as _Base


def _outline(values: dict[str, Any]) -> dict[str, Any]:
    """The file's keys without those that transformers would warn of; a ``ConfigError`` if the weights are quantised."""
    if values.get("quantization_config") is not None:
        raise ConfigError(
            "this folder holds quantised weights, which the vLLM plugin does not read: decode it with "
            "`kaiyuan convert SRC DST`, serve DST, and let vLLM quantise (`--quantization fp8`)"
        )
    # transformers does not know the alpha in it, and vLLM has nothing to ask of it: it does not stretch the context
    return {key: value for key, value in values.items() if key != "rope_scaling"}


class HunyuanConfig(_Base):
    """The form of Hunyuan-Large; its keys have the names that vLLM expects."""

    model_type = "hunyuan"

    def __init__(self, **values: Any) -> None:
        super().__init__(**_outline(values))


class KaiyuanConfig(_Base):
    """Our own form: ``kaiyuan.ModelConfig`` under its own names."""

    model_type = "kaiyuan"
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "num_kv_heads",
        "rms_norm_eps": "norm_eps",
    }

    def __init__(self, **values: Any) -> None:
        super().__init__(**_outline(values))
