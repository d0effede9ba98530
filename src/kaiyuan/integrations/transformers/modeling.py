"""Our model behind transformers' interface: ``PreTrainedModel``, ``generate``, its caches, loss, saving and loading.

The layers are those of ``kaiyuan.model``; nothing is computed twice or otherwise. Loading and saving go through
``kaiyuan.checkpoint``, so every form of storage works and what is saved has the released names.

Shapes: B batch, T new tokens, S keys (cached ones and new ones), V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from kaiyuan.checkpoint import load_model, save_state
from kaiyuan.checkpoint.hf_config import read_raw, same_model
from kaiyuan.errors import CheckpointError, ConfigError, listing
from kaiyuan.integrations.transformers.arguments import Loading, shard_bytes
from kaiyuan.integrations.transformers.configuration import HunYuanConfig, KaiyuanConfig, config_of
from kaiyuan.integrations.transformers.context import make_context
from kaiyuan.integrations.transformers.weights import copy_released
from kaiyuan.model.routing import DROPLESS
from kaiyuan.model.transformer import Features, Transformer

_PREFIX = "transformer."


class HunYuanForCausalLM(PreTrainedModel, GenerationMixin):
    """A model of the Hunyuan-Large kind.

    ``transformer`` is wrapped if it is given, else a new one with random weights is made. Routing is dropless in
    training too (padding must not take slots from tokens); ``model.transformer.mode`` changes that and dropout.
    """

    config_class: type[PretrainedConfig] = HunYuanConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: HunYuanConfig | KaiyuanConfig, transformer: Transformer | None = None) -> None:
        super().__init__(config)
        if transformer is None:
            transformer = Transformer(config.model_config())
            if not transformer.embed.weight.is_meta:
                transformer.init_weights()
        transformer.mode.routing = DROPLESS
        for module in transformer.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # transformers must not fill them anew
        self.transformer = transformer
        self.generation_config = GenerationConfig(**config.token_ids())
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Float32 logits (B, T, V) of int64 ``input_ids`` (B, T); with ``logits_to_keep`` only the last so many.

        ``attention_mask``: (B, S), 0 at padding; or boolean (B, 1, T, S), true where a query may look.
        ``position_ids``: (B, T); without a mask, those that start anew begin another document. ``labels`` (B, T), -100
        where there is nothing to learn, give the mean cross-entropy of each next token.
        """
        self._refuse(input_ids, kwargs.pop("inputs_embeds", None), output_attentions)
        assert input_ids is not None
        if past_key_values is None and self._option(use_cache, "use_cache") and not self.training:
            past_key_values = DynamicCache(config=self.config)
        context = make_context(self.transformer, input_ids, attention_mask, position_ids, past_key_values)
        keep_layers = bool(self._option(output_hidden_states, "output_hidden_states"))
        with self._own_precision(input_ids.device.type):
            features = self.transformer.features(input_ids, context=context, keep_layers=keep_layers)
            logits = self._logits(features, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        hidden_states = tuple(features.layers) if keep_layers else None
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=past_key_values, hidden_states=hidden_states
        )
        return output if self._option(return_dict, "return_dict") else output.to_tuple()

    def _refuse(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, output_attentions: bool | None) -> None:
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("give input_ids; inputs_embeds are not supported")
        if output_attentions:
            raise ValueError("output_attentions is not supported: attention never forms its probabilities as a tensor")

    def _option(self, given: bool | None, name: str) -> bool | None:
        return getattr(self.config, name, True) if given is None else given

    def _logits(self, features: Features, keep: int | Tensor) -> Tensor:
        places = slice(-keep, None) if isinstance(keep, int) else keep
        return self.transformer.logits(features.x_BTD[:, places])

    @contextmanager
    def _own_precision(self, device: str) -> Iterator[None]:
        """Autocast's dtype for activations, by the model's own rules: autocast would take the router to bfloat16."""
        if not torch.is_autocast_enabled(device):
            yield
            return
        before = self.transformer.compute_dtype
        self.transformer.compute_dtype = torch.get_autocast_dtype(device)
        try:
            with torch.autocast(device, enabled=False):
                yield
        finally:
            self.transformer.compute_dtype = before

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.transformer.embed = value

    def get_output_embeddings(self) -> nn.Module | None:
        """The head's own matrix; None if the head is the embedding."""
        return self.transformer.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.transformer.lm_head = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        resized = super().resize_token_embeddings(*args, **kwargs)
        self.transformer.config = self.transformer.config.replace(vocab_size=resized.weight.shape[0])
        return resized

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes the released names too, all or a shard's: transformers' ``Trainer`` resumes with what was saved."""
        taken, missing = copy_released(self.transformer, state_dict)
        if not taken:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        surplus = sorted(set(state_dict) - set(taken))
        if strict and (missing or surplus):
            problems = [*(f"{name}: missing" for name in missing), *(f"{name}: surplus" for name in surplus)]
            raise CheckpointError(listing("this state does not fit the model", problems))
        return _IncompatibleKeys(missing, surplus)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *, config: Any = None, **kwargs: Any
    ) -> Any:
        """The model in a folder that ``kaiyuan.load_model`` reads, in evaluation mode; quantised weights are decoded.

        ``dtype`` (``"auto"``, the default: what ``config.json`` says) is that of all weights but the routers', which
        are float32. ``device_map`` names one device. Arguments that would have no effect are refused.
        """
        loading = Loading.of(kwargs)
        folder = Path(pretrained_model_name_or_path, loading.subfolder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; download the model first and give its folder")
        if not isinstance(config, (HunYuanConfig, KaiyuanConfig)):
            config = config_of(folder, read_raw(folder))
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights in memory are not
        if loading.attn_implementation is not None:
            config._attn_implementation = loading.attn_implementation
        dtype = loading.dtype or config.dtype or torch.float32
        transformer = load_model(folder, dtype, loading.device)
        if not same_model(config.model_config(), transformer.config):
            raise ConfigError(f"the config given differs from that of {folder}; edit its config.json instead")
        config.dtype = dtype
        model = cls(config, transformer).eval()
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        nothing: dict[str, Any] = {
            "missing_keys": set(),
            "unexpected_keys": set(),
            "mismatched_keys": set(),
            "error_msgs": [],
        }
        return (model, nothing) if loading.output_loading_info else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        **_: Any,
    ) -> None:
        """Write a folder as ``kaiyuan.save_model`` does, with ``generation_config.json``.

        ``state_dict`` stands for this model's own: whole tensors under its names.
        """
        if push_to_hub:
            raise CheckpointError("push_to_hub: save to a folder, then upload that")
        if not is_main_process:
            return
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in (state_dict or self.state_dict()).items()}
        size = shard_bytes(max_shard_size)
        ids = self.config.token_ids()
        save_state(state, self.transformer.config, Path(save_directory), max_shard_bytes=size, extra=ids)
        self.generation_config.save_pretrained(save_directory)


class KaiyuanForCausalLM(HunYuanForCausalLM):
    """The same for folders of our own form."""

    config_class = KaiyuanConfig
