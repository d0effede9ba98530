"""What transformers' users may say when they load and save, and what we make of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import torch

from kaiyuan.errors import CheckpointError, listing

# Where files come from (ours is a folder), and ways of reading them that change nothing about the outcome.
_WITHOUT_EFFECT = frozenset({
    "_commit_hash", "_fast_init", "_from_auto", "_from_pipeline", "adapter_kwargs", "cache_dir", "code_revision",
    "disable_mmap", "force_download", "local_files_only", "low_cpu_mem_usage", "max_memory", "mirror",
    "offload_buffers", "offload_folder", "offload_state_dict", "proxies", "resume_download", "revision",
    "token", "tqdm_class", "trust_remote_code", "use_safetensors", "weights_only",
})  # fmt: skip

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass
class Loading:
    """The arguments of ``from_pretrained`` that have an effect."""

    dtype: torch.dtype | None
    """None: as ``config.json`` says."""
    device: torch.device
    attn_implementation: str | None
    subfolder: str
    output_loading_info: bool

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Self:
        """Raises one ``CheckpointError`` that names all arguments that are not supported."""
        given = {key: value for key, value in arguments.items() if key not in _WITHOUT_EFFECT and value is not None}
        dtype, old_dtype = given.pop("dtype", None), given.pop("torch_dtype", None)
        loading = cls(
            dtype=_dtype(old_dtype if dtype is None else dtype),
            device=_device(given.pop("device_map", None)),
            attn_implementation=given.pop("attn_implementation", None),
            subfolder=given.pop("subfolder", ""),
            output_loading_info=bool(given.pop("output_loading_info", False)),
        )
        if given:
            problems = [f"{key}: not supported" for key in sorted(given)]
            raise CheckpointError(listing("from_pretrained: these arguments cannot be used", problems))
        return loading


def _dtype(given: Any) -> torch.dtype | None:
    if given is None or given == "auto":
        return None
    dtype = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise CheckpointError(f"dtype: {given!r} is not a dtype that a model can have; try torch.bfloat16")
    return dtype


def _device(device_map: Any) -> torch.device:
    if device_map is None:
        return torch.device("cpu")
    if isinstance(device_map, dict) and list(device_map) == [""]:
        device_map = device_map[""]
    if device_map == "auto" and torch.cuda.device_count() < 2:
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError):
        raise CheckpointError(
            f"device_map: {device_map!r} is not one device, and a model cannot be spread over several here; "
            "serve it with the vLLM plugin"
        ) from None


def shard_bytes(size: int | str) -> int:
    """``"5GB"`` as a number of bytes."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"(\d+) ?([KMGT]?I?B?)", size.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise CheckpointError(f"max_shard_size: {size!r} is not a size such as '5GB'")
    return int(match[1]) * _UNITS[match[2]]
