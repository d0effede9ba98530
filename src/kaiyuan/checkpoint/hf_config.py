"""``config.json`` of Hunyuan-Large and HunYuan-V1 (MoE) folders, and what we write ourselves.

Three forms exist, and they compute different things from the same sizes:

- ``hunyuan`` (Hunyuan-Large): cross-layer attention; a single chosen expert keeps its probability as weight, the
  weights of several are scaled to sum to 1.
- ``hunyuan_v1_moe`` (Hunyuan-A13B): keys and values in every layer; weights always sum to 1, even a single one. Folders
  of this form may call themselves ``hunyuan`` too, so ``architectures`` decides.
- ``kaiyuan``: our own settings as they are, for models that neither release's code computes right. No other program
  will take such a folder for a model it knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard

from kaiyuan.checkpoint.coded import scheme_of
from kaiyuan.checkpoint.hf_keys import DEFAULTS, IGNORED, RENAMED, ROPE_IGNORED, inert_problems, show
from kaiyuan.errors import ConfigError, DataError, listing
from kaiyuan.files import read_json, write_json
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.quantization import Scheme

Form = Literal["hunyuan", "hunyuan_v1_moe", "kaiyuan"]

_ARCHITECTURE: dict[Form, str] = {
    "hunyuan": "HunYuanForCausalLM",
    "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM",
    "kaiyuan": "KaiyuanForCausalLM",
}
_MOST_LAYERS, _MOST_EXPERTS = 10_000, 100_000
"""Bounds far above any model: a damaged config must not make us list billions of tensor names."""


def read_raw(folder: str | Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a model folder; a ``ConfigError`` if there is none or it is not a JSON object."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError(f"{path}: no such file (a model folder holds config.json beside its weights)")
    try:
        raw = read_json(path)
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (OSError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return raw


def stored_scheme(folder: str | Path) -> Scheme | None:
    """How the weights in ``folder`` are quantised, None if they are not."""
    return scheme_of(read_raw(folder))


def read_config(folder: str | Path) -> ModelConfig:
    """The model that the ``config.json`` in ``folder`` describes.

    Raises one ``ConfigError`` that names the file and lists every key that is missing, unknown, impossible, or asks for
    something the model does not have.
    """
    raw = read_raw(folder)
    problems: list[str] = []
    form = _form(raw, problems)
    values: dict[str, Any] = {}
    if form is not None:
        values = _own_values(raw, problems) if form == "kaiyuan" else _values(raw, form, problems)
    config = None
    if form is not None:
        try:
            config = ModelConfig(**values)
            found = _size_problems(config)
        except ConfigError as error:
            found = str(error).split("\n  - ")[1:]
        problems.extend(_in_file_terms(found, form, problems))
    if config is not None and form != "kaiyuan" and not problems:
        config = _canonical(config, raw, form == "hunyuan_v1_moe", problems)
    if config is None or problems:
        shown = [line if len(line) <= 300 else f"{line[:300]}..." for line in problems]
        raise ConfigError(listing(f"{Path(folder) / 'config.json'} cannot be used", shown))
    return config


def _form(raw: dict[str, Any], problems: list[str]) -> Form | None:
    """Which of the three forms the file has; None, with the reason in ``problems``, if it has none of them."""
    model_type, architectures = raw.get("model_type"), raw.get("architectures")
    known = {name: form for form, name in _ARCHITECTURE.items()}
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURE:
        problems.append(f"model_type: {show(model_type)} is none of {', '.join(_ARCHITECTURE)}")
        return None
    if not architectures:
        return model_type
    named = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    form = known.get(named) if isinstance(named, str) else None
    if form is None or (model_type != form and (model_type, form) != ("hunyuan", "hunyuan_v1_moe")):
        problems.append(f"architectures: {show(architectures)} does not fit model_type {model_type!r}")
        return None
    return form


def _own_values(raw: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The settings in a file of the ``kaiyuan`` form: those of ``ModelConfig`` under their own names."""
    settings = set(ModelConfig.model_fields)
    problems.extend(inert_problems(raw, settings | {"model_type", "architectures"}))
    return {key: value for key, value in raw.items() if key in settings}


def _values(raw: dict[str, Any], form: Form, problems: list[str]) -> dict[str, Any]:
    """Arguments for ``ModelConfig`` from a file of one of the two released forms."""
    problems.extend(inert_problems(raw))
    given = {key: raw[key] for key in RENAMED if key in raw}
    values = {RENAMED[key]: value for key, value in {**DEFAULTS, **given}.items()}
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = raw.get("num_attention_heads")
    values["head_dim"] = _head_dim(raw, problems)
    values["cla_share_factor"] = _share_factor(raw, problems)
    values["num_shared_experts"] = _shared_experts(raw, form, problems)
    values["qk_norm"] = _flag(raw, "use_qk_norm", form == "hunyuan_v1_moe", problems)
    values["rope_theta"], values["rope_alpha"] = _rope(raw, problems)
    if form == "hunyuan" and raw.get("num_experts") == 1:
        problems.append("num_experts: 1 means a dense model here, and only mixtures of experts can be read")
    return values


def _flag(raw: dict[str, Any], key: str, default: bool, problems: list[str]) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        problems.append(f"{key}: {show(value)} is not true or false")
    return default if not isinstance(value, bool) else value


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _head_dim(raw: dict[str, Any], problems: list[str]) -> Any:
    """``head_dim``, also spelt ``attention_head_dim``; without either, the hidden size divided among the heads."""
    given = {key: raw[key] for key in ("head_dim", "attention_head_dim") if raw.get(key) is not None}
    values = list(given.values())
    if len(values) == 2 and values[0] != values[1]:
        problems.append(f"attention_head_dim: {show(values[1])} contradicts head_dim {show(values[0])}")
    if values:
        return values[0]
    hidden, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    if not _whole(hidden) or not _whole(heads):
        return 64  # any valid value: the two sizes it would follow from are reported themselves
    if hidden % heads:
        problems.append(f"head_dim: missing, and hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    return hidden // heads


def _share_factor(raw: dict[str, Any], problems: list[str]) -> Any:
    return raw.get("cla_share_factor", 1) if _flag(raw, "use_cla", False, problems) else 1


def _shared_experts(raw: dict[str, Any], form: Form, problems: list[str]) -> Any:
    has_shared = _flag(raw, "use_mixed_mlp_moe", form == "hunyuan_v1_moe", problems)
    return raw.get("num_shared_expert", 1) if has_shared else 0


def _rope(raw: dict[str, Any], problems: list[str]) -> tuple[Any, Any]:
    """RoPE's theta and alpha, from ``rope_theta`` and ``rope_scaling`` or from transformers 5's ``rope_parameters``."""
    theta, alpha = raw.get("rope_theta"), None
    found = []
    for key in ("rope_scaling", "rope_parameters"):
        if raw.get(key) is not None:
            inner_theta, alpha = _rope_dictionary(key, raw[key], problems)
            found.append(alpha)
            if inner_theta is not None and theta not in (None, inner_theta):
                problems.append(f"{key}.rope_theta: {show(inner_theta)} contradicts rope_theta {show(theta)}")
            theta = inner_theta if theta is None else theta
    if len(found) == 2 and found[0] != found[1]:
        problems.append("rope_parameters: contradicts rope_scaling")
    return (10_000.0 if theta is None else theta), alpha


def _rope_dictionary(key: str, rope: Any, problems: list[str]) -> tuple[Any, Any]:
    if not isinstance(rope, dict):
        problems.append(f"{key}: {show(rope)} is not an object")
        return None, None
    read = {"type", "rope_type", "alpha", "rope_theta", "partial_rotary_factor"}
    problems.extend(f"{key}.{name}: unknown key" for name in rope if name not in read and name not in ROPE_IGNORED)
    kinds = {str(rope[name]) for name in ("type", "rope_type") if rope.get(name) is not None} or {"default"}
    alpha = rope.get("alpha")
    if (share := rope.get("partial_rotary_factor", 1.0)) != 1.0:
        problems.append(f"{key}.partial_rotary_factor: {show(share)} is not supported, only 1.0")
    if kinds == {"dynamic"} and alpha:
        return rope.get("rope_theta"), alpha
    if kinds != {"default"} or alpha is not None:
        kind = show(" and ".join(sorted(kinds)))
        problems.append(
            f"{key}: type {kind} with alpha {show(alpha)} is not supported; 'dynamic' with, 'default' without alpha are"
        )
    return rope.get("rope_theta"), None


_FILE_NAMES = {
    **{ours: key for key, ours in RENAMED.items()},
    "num_shared_experts": "num_shared_expert",
    "qk_norm": "use_qk_norm",
    "rope_alpha": "rope_scaling.alpha",
}


def _in_file_terms(found: list[str], form: Form, known: list[str]) -> list[str]:
    """Problems with a ``ModelConfig``, under the file's names for the settings and without those known already."""
    reported = {problem.partition(":")[0] for problem in known}
    problems = []
    for line in found:
        if form != "kaiyuan":
            line = re.sub(r"\w+", lambda word: _FILE_NAMES.get(word[0], word[0]), line)
        if line.partition(":")[0] not in reported:
            problems.append(line)
    return problems


def _size_problems(config: ModelConfig) -> list[str]:
    if config.num_layers > _MOST_LAYERS:
        return [f"num_layers: {config.num_layers:,} is more than the {_MOST_LAYERS:,} that can be read"]
    experts = sum(layer.num_experts for layer in config.layers())
    if experts > _MOST_EXPERTS:
        return [f"num_experts: {experts:,} experts in all layers are more than the {_MOST_EXPERTS:,} that can be read"]
    return []


def _canonical(config: ModelConfig, raw: dict[str, Any], always: bool, problems: list[str]) -> ModelConfig:
    """``config`` with everything left out that says nothing new, so that equal models have equal descriptions.

    ``always`` is whether the form's code scales the weight of a single chosen expert too.
    """
    norm = raw.get("norm_topk_prob")
    if norm is not None and any(norm != (always or layer.top_k > 1) for layer in config.layers()):
        problems.append(f"norm_topk_prob: {show(norm)}, but the code of {raw['model_type']} does not do that")
    alone = any(layer.top_k == 1 for layer in config.layers())
    same_size = config.moe_intermediate_size == config.intermediate_size
    return config.replace(
        renormalize=True if always and alone else None,
        moe_intermediate_size=None if same_size else config.moe_intermediate_size,
    )


def form_of(config: ModelConfig) -> Form:
    """The form that ``config`` is written in: the one whose released code computes this model right."""
    layers = config.layers()
    per_layer = (config.num_experts, config.num_shared_experts, config.top_k, config.moe_intermediate_size)
    scaled = [config.renormalizes(layer.top_k) for layer in layers]
    if config.cla_share_factor == 1 and config.qk_norm and all(scaled) and all(layer.shared_size for layer in layers):
        return "hunyuan_v1_moe"
    as_large = all(flag == (layer.top_k > 1) for flag, layer in zip(scaled, layers, strict=True))
    uniform = not any(isinstance(value, tuple) for value in per_layer)
    one_size = config.moe_intermediate_size in (None, config.intermediate_size)
    if as_large and uniform and one_size and config.num_experts != 1:
        return "hunyuan"
    return "kaiyuan"


def write_config(
    config: ModelConfig, folder: str | Path, *, dtype: str | None = None, extra: Mapping[str, Any] | None = None
) -> None:
    """Write ``config.json`` into ``folder`` so that ``read_config`` gives ``config`` back; see ``config_keys``."""
    write_json(Path(folder) / "config.json", config_keys(config, dtype=dtype, extra=extra))


def config_keys(
    config: ModelConfig, *, dtype: str | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``config.json`` holds for a model.

    ``dtype`` ("bfloat16") is noted as ``torch_dtype``. ``extra`` adds keys that do not describe the computation, such
    as ``{"eos_token_id": 127960}``; a ``ConfigError`` names those that do.
    """
    form = form_of(config)
    extra = dict(extra or {})
    if wrong := sorted(set(extra) - IGNORED):
        raise ConfigError(listing("extra keys of config.json", [f"{key}: describes the model itself" for key in wrong]))
    body = config.model_dump(mode="json") if form == "kaiyuan" else _released_keys(config, form)
    head = {"architectures": [_ARCHITECTURE[form]], "model_type": form}
    noted = {} if dtype is None else {"torch_dtype": dtype}
    return {**extra, **body, **noted, **head}


def _released_keys(config: ModelConfig, form: Form) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    keys = {key: values[ours] for key, ours in RENAMED.items() if values[ours] is not None}
    shared = values["num_shared_experts"]
    keys |= {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "cla_share_factor": config.cla_share_factor,
        "hidden_act": "silu",
        "num_shared_expert": shared,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "use_cache": True,
        "use_cla": config.cla_share_factor > 1,
        "use_mixed_mlp_moe": shared != 0,
        "use_qk_norm": config.qk_norm,
    }
    if config.rope_alpha is not None:
        keys["rope_scaling"] = {"type": "dynamic", "alpha": config.rope_alpha, "factor": 1.0}
    if form == "hunyuan":
        keys |= {"capacity_factor": 1.0, "moe_drop_tokens": False, "moe_random_routing_dropped_token": False}
    if form == "hunyuan_v1_moe":
        keys |= {"head_dim": config.head_dim, "norm_topk_prob": True}
        keys.setdefault("moe_intermediate_size", config.intermediate_size)  # other readers of this form require it
    elif config.head_dim * config.num_attention_heads != config.hidden_size:
        keys["head_dim"] = config.head_dim
    return keys


def same_model(a: ModelConfig, b: ModelConfig) -> bool:
    """Whether two configs describe the same computation, however they spell it."""
    return _meaning(a) == _meaning(b)


def _meaning(config: ModelConfig) -> dict[str, Any]:
    spelt = {"intermediate_size", "moe_intermediate_size", "num_experts", "num_shared_experts", "renormalize", "top_k"}
    layers = [(layer, config.renormalizes(layer.top_k)) for layer in config.layers()]
    return {**config.model_dump(exclude=spelt), "layers": layers}
