"""What a model folder is, told from its config and its files' headers alone."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

from kaiyuan.checkpoint.hf_config import form_of, read_config, read_raw, same_model
from kaiyuan.checkpoint.plan import make_plan
from kaiyuan.checkpoint.storage import Storage, open_storage
from kaiyuan.errors import CheckpointError, ConfigError
from kaiyuan.model import presets
from kaiyuan.model.config import ModelConfig
from kaiyuan.progress import quantity

_TOKENIZERS = ("*.tiktoken", "tokenizer.json", "tokenizer.model")


def inspect_folder(folder: str | Path) -> dict[str, Any]:
    """Describe the model in ``folder``: its form, config, size, files, KV cache, and everything wrong with it.

    Never raises for a bad folder (only for one that does not exist): the ``problems`` say why ``load_model`` would
    refuse it. What only the weights' values can tell (NaN) is not looked for. The result can be written as JSON.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    report: dict[str, Any] = {"folder": str(folder), "problems": [], "notes": []}
    config, storage = _config(folder, report), _storage(folder, report)
    if config is not None:
        report |= _describe_config(config)
    if storage is not None:
        report |= _describe_storage(storage)
        report["problems"] += storage.problems if config is None else _mismatches(config, storage, report)
    report["tokenizer"] = sorted(path.name for pattern in _TOKENIZERS for path in folder.glob(pattern))
    if not report["tokenizer"]:
        report["notes"].append("no tokenizer file")
    return report


def _config(folder: Path, report: dict[str, Any]) -> ModelConfig | None:
    try:
        raw = read_raw(folder)
        report["model_type"] = str(raw.get("model_type"))
        return read_config(folder)
    except ConfigError as error:
        report["problems"] += _lines(error)
        return None


def _storage(folder: Path, report: dict[str, Any]) -> Storage | None:
    try:
        return open_storage(folder)
    except CheckpointError as error:
        report["problems"] += _lines(error)
        return None


def _lines(error: Exception) -> list[str]:
    """The single problems of a listing."""
    first, *rest = str(error).split("\n  - ")
    return rest or [first]


def _describe_config(config: ModelConfig) -> dict[str, Any]:
    count, cache = config.parameters(), config.kv_bytes()
    return {
        "form": form_of(config),
        "config": config.model_dump(mode="json"),
        "preset": _preset(config),
        "parameters": {"total": count.total, "active": count.active},
        "kv_bytes_per_token": {"ours": cache.ours, "mha": cache.mha, "share_of_mha": cache.share_of_mha},
    }


def _preset(config: ModelConfig) -> str | None:
    """The model of known size this one is, whatever its vocabulary and context."""
    free = {"vocab_size": 1, "max_position_embeddings": 1, "rope_alpha": None}
    exact = (name for name in presets.names() if same_model(config, presets.preset(name)))
    close = (name for name in presets.names() if same_model(config.replace(**free), presets.preset(name, **free)))
    return next(itertools.chain(exact, close), None)


def _describe_storage(storage: Storage) -> dict[str, Any]:
    dtypes: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for tensor in storage.tensors.values():
        dtypes[tensor.dtype] += math.prod(tensor.shape)
        tensors[tensor.file.name] += 1
    files = [
        {"name": file.name, "bytes": file.stat().st_size if file.exists() else None, "tensors": tensors[file.name]}
        for file in storage.files
    ]
    return {"files": files, "bytes": sum(file["bytes"] or 0 for file in files), "dtypes": dict(dtypes)}


def _mismatches(config: ModelConfig, storage: Storage, report: dict[str, Any]) -> list[str]:
    plan, problems = make_plan(config, storage)
    if plan.fused:
        report["notes"].append(f"{len(plan.fused)} fused tensors ({plan.fused[0]}, ...), which are split on loading")
    if plan.biases:
        report["notes"].append(f"{len(plan.biases)} biases ({plan.biases[0]}, ...), which are skipped")
    if plan.repeats_embedding:
        report["notes"].append("an output head beside the embedding it is tied to; they must be equal")
    if storage.ignored:
        report["notes"].append(f"{storage.ignored[0].name} and its like lie beside safetensors and are not read")
    return problems


def describe(folder: str | Path) -> str:
    """``inspect_folder`` for people: a short table, then notes and problems."""
    return describe_report(inspect_folder(folder))


def describe_report(report: dict[str, Any]) -> str:
    """What ``inspect_folder`` found, for people."""
    rows = [("folder", report["folder"]), ("form", report.get("form", report.get("model_type", "unknown")))]
    if "config" in report:
        rows += _config_rows(report)
    if "files" in report:
        files, dtypes = report["files"], report["dtypes"]
        rows.append(("files", f"{len(files)} ({files[0]['name']}, ...)" if len(files) > 1 else files[0]["name"]))
        rows.append(("size", f"{quantity(report['bytes'])}B"))
        rows.append(("dtypes", ", ".join(f"{quantity(count)} {dtype}" for dtype, count in sorted(dtypes.items()))))
    rows.append(("tokenizer", ", ".join(report["tokenizer"]) or "none"))
    table = "\n".join(f"{name:<12} {value}" for name, value in rows)
    notes = [f"note: {note}" for note in report["notes"]]
    problems = [f"problem: {problem}" for problem in report["problems"]] or ["no problems found"]
    return "\n".join([table, *notes, *problems])


def _config_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    config, count, cache = report["config"], report["parameters"], report["kv_bytes_per_token"]
    shape = f"{config['num_layers']} layers, hidden {config['hidden_size']}, vocabulary {config['vocab_size']}"
    heads = f"{config['num_attention_heads']} heads ({config['num_kv_heads']} for keys) of {config['head_dim']}"
    return [
        ("preset", report["preset"] or "none"),
        ("parameters", f"{quantity(count['total'])} total, {quantity(count['active'])} active"),
        ("shape", f"{shape}; {heads}"),
        ("KV cache", f"{cache['ours']:,} bytes a token in bfloat16, {100 * cache['share_of_mha']:.3g}% of MHA's"),
    ]
