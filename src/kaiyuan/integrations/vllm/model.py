"""Hunyuan-Large, HunYuan-V1 (MoE) and our own models as a model class of vLLM (0.32).

Shapes: T tokens of all sequences, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kaiyuan.checkpoint.hf_config import read_config
from kaiyuan.errors import ConfigError
from kaiyuan.integrations.vllm.layers import Block
from kaiyuan.integrations.vllm.weights import Gains, is_gain, place, released
from kaiyuan.model.config import ModelConfig

if find_spec("vllm"):
    from vllm.compilation.decorators import support_torch_compile
    from vllm.distributed import get_pp_group
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.model_loader.weight_utils import default_weight_loader
    from vllm.model_executor.models.utils import (
        PPMissingLayer,
        is_pp_missing_parameter,
        make_empty_intermediate_tensors_factory,
        make_layers,
    )
    from vllm.sequence import IntermediateTensors
else:  # the module can be imported all the same

    def support_torch_compile(**_: Any) -> Any:
        return lambda decorated: decorated


_FIRST_DIMENSION = {"input_ids": 0, "positions": -1, "intermediate_tensors": 0, "inputs_embeds": 0}


def _model_config(vllm_config: Any) -> ModelConfig:
    """What ``config.json`` says, read as strictly as everywhere else."""
    folder = Path(vllm_config.model_config.model)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: download the model first and give vLLM the folder")
    return read_config(folder)


@support_torch_compile(dynamic_arg_dims=_FIRST_DIMENSION)
class HunyuanModel(nn.Module):
    """Embedding, decoder blocks, final norm; on a pipeline rank, those of its stage."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config = _model_config(vllm_config)
        stage = get_pp_group()
        self.embed_tokens = PPMissingLayer()
        if stage.is_first_rank or (config.tie_word_embeddings and stage.is_last_rank):
            self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.start_layer, self.end_layer, self.layers = make_layers(
            config.num_layers,
            lambda prefix: Block(config, config.layer(int(prefix.rpartition(".")[2])), vllm_config, prefix),
            prefix=f"{prefix}.layers",
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps) if stage.is_last_rank else PPMissingLayer()
        self.empty_stage_input = make_empty_intermediate_tensors_factory(
            ["hidden_states", "residual"], config.hidden_size
        )

    def embed_input_ids(self, input_ids: Tensor | None) -> Tensor:
        return self.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Any:
        """Features (T, D) of tokens or embeddings; between pipeline stages, what the next one needs."""
        residual_TD, shared = None, None
        if not get_pp_group().is_first_rank:
            x_TD, residual_TD = intermediate_tensors["hidden_states"], intermediate_tensors["residual"]
        else:
            x_TD = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        for block in islice(self.layers, self.start_layer, self.end_layer):
            x_TD, residual_TD, shared = block(positions, x_TD, residual_TD, shared)
        if not get_pp_group().is_last_rank:
            return IntermediateTensors({"hidden_states": x_TD, "residual": residual_TD})
        return self.norm(x_TD, residual_TD)[0]


class HunyuanForCausalLM(nn.Module):
    """The model with its head, by the interface that vLLM looks for."""

    supports_pp = True
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.kaiyuan = config = _model_config(vllm_config)
        _check_parallel(config, vllm_config.parallel_config)
        self.model = HunyuanModel(vllm_config=vllm_config, prefix=f"{prefix}.model".lstrip("."))
        self.lm_head = PPMissingLayer()
        if get_pp_group().is_last_rank:
            self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size, prefix=f"{prefix}.lm_head".lstrip("."))
            if config.tie_word_embeddings:
                self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_input_ids(input_ids)

    def make_empty_intermediate_tensors(self, batch_size: int, dtype: torch.dtype, device: torch.device) -> Any:
        """What a later pipeline stage is given while vLLM measures its memory."""
        return self.model.empty_stage_input(batch_size, dtype, device)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Any:
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits (T, V) of features (T, D), on the rank that samples."""
        return self.logits_processor(self.lm_head, hidden_states)

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill the parameters of this rank; returns their names. A ``CheckpointError`` lists every tensor that is
        missing, surplus or of a wrong shape.
        """
        parameters: dict[str, Any] = dict(self.named_parameters())
        loaded: set[str] = set()
        gains = Gains()
        for name, tensor in released(weights, self.kaiyuan):
            where = place(name, self.kaiyuan)
            if is_pp_missing_parameter(where.parameter, self):
                continue
            parameter = parameters[where.parameter]
            if is_gain(name):
                if (product := gains.fold(where.parameter, tensor)) is not None:
                    parameter.copy_(product)
            elif where.expert is not None:
                parameter.weight_loader(
                    parameter, tensor, where.parameter, shard_id=where.shard, expert_id=where.expert
                )
            elif where.shard is not None:
                parameter.weight_loader(parameter, tensor, where.shard)
            else:
                getattr(parameter, "weight_loader", default_weight_loader)(parameter, tensor)
            loaded.add(where.parameter)
        return loaded


def _check_parallel(config: ModelConfig, parallel: Any) -> None:
    """Raise a ``ConfigError`` for a split that would part layers from the keys and values they share."""
    from vllm.distributed.utils import get_pp_indices

    stages = parallel.pipeline_parallel_size
    starts = [get_pp_indices(config.num_layers, stage, stages)[0] for stage in range(stages)]
    if cut := [start for start in starts if not config.layer(start).owns_kv]:
        raise ConfigError(
            f"a pipeline stage would begin at layer {cut[0]}, which reads the keys and values of layer "
            f"{config.layer(cut[0]).producer}: set VLLM_PP_LAYER_PARTITION to multiples of {config.cla_share_factor}"
        )
