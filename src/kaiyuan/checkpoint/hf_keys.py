"""Which keys of a Hugging Face ``config.json`` matter, which do not, and which must have one harmless value.

A key in none of these tables is refused: a setting nobody thought of may change what the model computes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kaiyuan.checkpoint.coded import note_problems

RENAMED = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_kv_heads",
    "intermediate_size": "intermediate_size",
    "moe_intermediate_size": "moe_intermediate_size",
    "num_experts": "num_experts",
    "moe_topk": "top_k",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
    "initializer_range": "init_std",
}
"""Keys that mean what a setting of ``ModelConfig`` means, under another name."""

DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": None,
    "moe_intermediate_size": None,
    "moe_topk": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
"""What the release's own config classes fill in for an absent key; the other keys of ``RENAMED`` are required."""

DERIVED = frozenset({
    "architectures", "attention_head_dim", "cla_share_factor", "head_dim", "model_type", "norm_topk_prob",
    "num_shared_expert", "rope_parameters", "rope_scaling", "rope_theta", "use_cla", "use_mixed_mlp_moe",
    "use_qk_norm",
})  # fmt: skip
"""Keys that are read too, but not one to one."""

_MUST_BE: dict[str, tuple[Any, ...]] = {
    "add_classification_head": (False, None),
    "add_cross_attention": (False,),
    "attention_bias": (False, None),
    "group_limited_greedy": (False, None),
    "hidden_act": ("silu",),
    "is_encoder_decoder": (False,),
    "mamba": (False, None),
    "mlp_bias": (False, None),
    "moe_layer_num_skipped": (0, None),
    "norm_type": ("rms", "hf_rms", None),
    "partial_rotary_factor": (1.0, None),
    "position_embedding_xdrope": (False, None),
    "pretraining_tp": (1,),
    "pruned_heads": ({}, None),
    "routed_scaling_factor": (1.0, False, None),
    "tie_encoder_decoder": (False,),
    "use_mla": (False, None),
    "use_rotary_pos_emb": (True, None),
}

_QUANTIZED = ("quantization", "quantization_config", "compression_config")

_HUGGING_FACE = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "auto_map",
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_decoder", "label2id",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_router_logits", "output_scores",
    "pad_token_id", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version",
    "typical_p", "use_bfloat16", "use_cache",
})  # fmt: skip

# Settings of training (dropout, capacity: inference is dropless), and of parts that _MUST_BE says are absent: images
# and video, multi-head latent attention, Mamba layers, grouped routing, a classification head.
_HUNYUAN = frozenset({
    "anyres_pooling_size", "anyres_vit_max_image_size", "anyres_vit_two_views", "attention_dropout",
    "capacity_factor", "chunk_size", "class_num", "dense_list", "eod_token_id", "hidden_dropout",
    "hybrid_override_pattern", "im_end_id", "im_newline_id", "im_start_id", "image_token_id", "kv_lora_rank",
    "mamba_d_conv", "mamba_d_state", "mamba_expand", "mamba_head_dim", "mamba_ssm_ngroups", "mamba_use_seq_idx",
    "mask_init_id", "moe_drop_tokens", "moe_random_routing_dropped_token", "n_group", "num_media_embeds",
    "org_vocab_size", "pad_id", "pool_type", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "skip_cls_token", "text_end_id", "text_start_id", "topk_group", "v_head_dim", "video_end_id",
    "video_start_id", "vit_add_patchemb_bias", "vit_input_resolution", "vit_mapping_type", "vit_norm_type",
    "vit_patch", "vit_path", "vit_remove_prenorm", "vit_token", "vit_type", "vit_used_rms_norm", "xdrope_section",
})  # fmt: skip

IGNORED = _HUGGING_FACE | _HUNYUAN
"""Keys whose value plays no part in what the model computes."""

ROPE_IGNORED = frozenset({
    "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim", "original_max_position_embeddings",
})  # fmt: skip
"""Keys inside ``rope_scaling`` that no implementation reads once there is an ``alpha``."""


def show(value: Any) -> str:
    """``value`` as it stands in the file, cut short: a message must stay one line whatever the file holds."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def inert_problems(raw: dict[str, Any], read: Collection[str] = (*RENAMED, *DERIVED)) -> list[str]:
    """What is wrong with the keys that are not ``read``: unknown ones, and known ones that change the computation."""
    problems: list[str] = []
    for key, value in raw.items():
        if key in read:
            continue
        if key in _QUANTIZED:
            problems += note_problems(key, value)
        elif key in _MUST_BE:
            if not any(isinstance(value, bool) == isinstance(one, bool) and value == one for one in _MUST_BE[key]):
                wanted = " or ".join(show(one) for one in _MUST_BE[key] if one is not None)
                problems.append(f"{key}: {show(value)} is not supported, only {wanted}")
        elif key not in IGNORED:
            problems.append(f"{key}: unknown key")
    return problems
