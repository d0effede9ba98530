"""``config.json`` as transformers wants to see it, and the way from there to a ``ModelConfig``.

The file's keys become attributes; what they mean is decided by ``kaiyuan.checkpoint`` alone, as strictly as for
``kaiyuan.load_model``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from kaiyuan.checkpoint import read_config, write_config
from kaiyuan.checkpoint.hf_keys import DERIVED, IGNORED, RENAMED
from kaiyuan.errors import ConfigError
from kaiyuan.files import write_json
from kaiyuan.model.config import ModelConfig

_PLACEHOLDERS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


class _Config(PretrainedConfig):
    """What both forms have in common."""

    def model_config(self) -> ModelConfig:
        """The model that this config describes; a ``ConfigError`` lists everything that is wrong with it."""
        raise NotImplementedError

    @property
    def kv_sharing_modes(self) -> list[str | None]:
        """For transformers' caches: which layers keep no keys and values of their own, as ``"reuse"``."""
        return ["reuse" if index % self.share_factor else None for index in range(self.num_hidden_layers)]

    @property
    def share_factor(self) -> int:
        """Layers that share one set of keys and values."""
        raise NotImplementedError

    def token_ids(self) -> dict[str, Any]:
        """The ids of special tokens that the config knows."""
        return {key: value for key in _PLACEHOLDERS if (value := getattr(self, key, None)) is not None}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **_: Any) -> None:
        """Write ``config.json`` as ``kaiyuan.save_model`` does, so that every reader of such folders takes it."""
        if push_to_hub:
            raise ConfigError("push_to_hub: save to a folder, then upload that")
        dtype = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(self.model_config(), folder, dtype=dtype, extra=self.token_ids())


class HunYuanConfig(_Config):
    """The form of the releases; attributes have the names that transformers uses itself."""

    model_type = "hunyuan"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"}
    ignore_keys_at_rope_validation = {"alpha"}  # read by us; transformers would warn of it
    rope_parameters: dict[str, Any] | None = None

    def __init__(self, **values: Any) -> None:
        if {key: values.get(key) for key in _PLACEHOLDERS} == _PLACEHOLDERS:
            values |= dict.fromkeys(_PLACEHOLDERS)  # the release's ids, which name ordinary tokens of its vocabulary
        super().__init__(**values)

    @property
    def share_factor(self) -> int:
        return getattr(self, "cla_share_factor", 1) if getattr(self, "use_cla", False) else 1

    def model_config(self) -> ModelConfig:
        raw = {key: value for key, value in self.to_dict().items() if value is not None}
        raw["architectures"] = self.architectures or ["HunYuanForCausalLM"]
        added = set(PretrainedConfig().to_dict()) - {*RENAMED, *DERIVED, *IGNORED}
        return _parsed({key: value for key, value in raw.items() if key not in added})


def _parsed(raw: dict[str, Any]) -> ModelConfig:
    with tempfile.TemporaryDirectory() as folder:  # the reader takes folders
        write_json(Path(folder) / "config.json", raw)
        try:
            return read_config(folder)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(Path(folder) / "config.json"), "this config")) from None


class KaiyuanConfig(_Config):
    """Our own form: the settings of ``ModelConfig``, but for ``top_k``, which is ``num_experts_per_tok`` here.

    transformers takes a ``top_k`` in a config for the sampling setting of that name and drops it.
    """

    model_type = "kaiyuan"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "num_kv_heads",
        "rms_norm_eps": "norm_eps",
        "initializer_range": "init_std",
    }

    def __init__(self, **values: Any) -> None:
        if "top_k" in values:
            values["num_experts_per_tok"] = values.pop("top_k")
        super().__init__(**values)

    @property
    def share_factor(self) -> int:
        return getattr(self, "cla_share_factor", ModelConfig.model_fields["cla_share_factor"].default)

    def model_config(self) -> ModelConfig:
        names = set(ModelConfig.model_fields) - {"top_k"}
        values = {name: vars(self)[name] for name in names if name in vars(self)}
        if "num_experts_per_tok" in vars(self):
            values["top_k"] = self.num_experts_per_tok
        return ModelConfig(**values)


def config_of(folder: Path, raw: dict[str, Any]) -> _Config:
    """The config for a folder of any of the forms, given its parsed ``config.json``."""
    values = {key: value for key, value in raw.items() if key not in ("model_type", "quantization_config")}
    form = KaiyuanConfig if raw.get("model_type") == "kaiyuan" else HunYuanConfig
    if raw.get("model_type") == "hunyuan_v1_moe":
        values["architectures"] = ["HunYuanMoEV1ForCausalLM"]
    return form(**values, name_or_path=str(folder))
