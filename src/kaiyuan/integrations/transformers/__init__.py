"""Hunyuan-Large and our own model folders in transformers.

After ``import kaiyuan.integrations.transformers``, ``AutoConfig``, ``AutoModelForCausalLM`` and ``AutoTokenizer`` load
such folders without remote code, and ``generate`` keeps one cache entry for each layer that makes keys and values.

Taken over are the model types ``hunyuan`` (Hunyuan-Large, and HunYuan-V1 folders of the time when they went by that
name too) and ``kaiyuan``. ``hunyuan_v1_moe`` stays with transformers' own class: it computes what those folders mean
(weights of the chosen experts scaled to sum to 1, keys and values in every layer, so nothing to save in the cache). It
would be wrong for Hunyuan-Large, whose single chosen expert keeps its probability as weight. What transformers' class
lacks of that form (expert sizes that differ from the shared expert's, several shared experts) it refuses with errors of
shapes; ``HunYuanForCausalLM.from_pretrained`` loads any folder that ``kaiyuan.load_model`` does.
"""

from __future__ import annotations

from kaiyuan.errors import KaiyuanError

try:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
except ImportError:
    raise KaiyuanError("transformers is not installed: pip install 'kaiyuan[transformers]'") from None

from kaiyuan.integrations.transformers.configuration import HunYuanConfig, KaiyuanConfig
from kaiyuan.integrations.transformers.modeling import HunYuanForCausalLM, KaiyuanForCausalLM
from kaiyuan.integrations.transformers.tokenization import HYTokenizer

__all__ = ["HYTokenizer", "HunYuanConfig", "HunYuanForCausalLM", "KaiyuanConfig", "KaiyuanForCausalLM", "register"]


def register() -> None:
    """Tell transformers' Auto classes about ours; importing this module has done so. Harmless when called again."""
    for config, model in ((HunYuanConfig, HunYuanForCausalLM), (KaiyuanConfig, KaiyuanForCausalLM)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
        AutoTokenizer.register(config, HYTokenizer, exist_ok=True)


register()
