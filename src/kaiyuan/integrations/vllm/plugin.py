"""What vLLM calls when it starts: the entry point ``kaiyuan`` of the group ``vllm.general_plugins``."""

from __future__ import annotations

from kaiyuan.errors import KaiyuanError

ARCHITECTURES = ("HunYuanForCausalLM", "HunYuanMoEV1ForCausalLM", "KaiyuanForCausalLM")
"""Values of ``architectures`` in ``config.json`` that our model class serves. The second one vLLM knows too, through
transformers' slower code; ours takes its place."""
_MODEL = "kaiyuan.integrations.vllm.model:HunyuanForCausalLM"


def register() -> None:
    """Make vLLM serve our architectures. Harmless when called again: vLLM does so in each of its processes."""
    try:
        from vllm import ModelRegistry
    except ImportError:
        raise KaiyuanError("vLLM is not installed; pip install 'vllm==0.32.*' (docs/vllm.md)") from None
    from kaiyuan.integrations import transformers
    from kaiyuan.integrations.vllm.quantized import refuse_quantized

    transformers.register()  # one pair of config classes for both, so their order does not matter
    refuse_quantized(ARCHITECTURES)
    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, _MODEL)
