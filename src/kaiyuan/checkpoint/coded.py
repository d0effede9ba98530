"""Quantised weights in model folders: our own, and the release's FP8 folder as AutoFP8 writes such.

A coded matrix ``X.weight`` has its scale beside it, ``X.weight_scale``: (O, 1) for int8 and fp8, one number for
AutoFP8. Int4 is packed: ``X.weight_packed`` (O, I / 2) with ``X.weight_scale`` (O, I / 64). Whoever reads a folder
sees ``X.weight`` as a float tensor: the reader decodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kaiyuan.model.quantization import GROUP, SCHEMES, Scheme, fits, quantize

if TYPE_CHECKING:
    from kaiyuan.checkpoint.storage import Storage
    from kaiyuan.checkpoint.writer import Entry

METHOD = "kaiyuan"
PACKED, SCALE = "_packed", "_scale"
_CODES = {"i8", "int8", "f8_e4m3", "float8_e4m3fn"}
_ACTIVATION_SCALES = (".input_scale", ".output_scale", ".k_scale", ".v_scale", ".kv_scale")
"""Static scales of activations and caches: ours are taken as they come, or not needed."""


def fold(storage: Storage) -> None:
    """Show every coded matrix as the float tensor it stands for; its scale moves to ``storage.scales``."""
    for name in [name for name in storage.tensors if name.endswith((".weight", f".weight{PACKED}"))]:
        packed = name.endswith(PACKED)
        weight = name.removesuffix(PACKED)
        stored, scale = storage.tensors[name], storage.tensors.get(f"{weight}{SCALE}")
        if scale is None or not (stored.dtype in _CODES or (packed and stored.dtype in ("u8", "uint8"))):
            continue
        shape = (*stored.shape[:-1], 2 * stored.shape[-1]) if packed and stored.shape else stored.shape
        if problem := _misfit(scale.shape, shape, packed):
            storage.problems.append(f"{scale.name}: has shape {list(scale.shape)}, {weight} needs {problem}")
            storage.lost.add(weight)
        else:
            storage.tensors[weight] = dataclasses.replace(stored, name=weight, shape=shape, dtype="float32", codes=name)
            storage.scales[weight] = scale
        del storage.tensors[scale.name]
        if packed or problem:
            del storage.tensors[name]
    if storage.scales:
        for name in [name for name in storage.tensors if name.endswith(_ACTIVATION_SCALES)]:
            del storage.tensors[name]


def _misfit(scale: tuple[int, ...], shape: tuple[int, ...], packed: bool) -> str:
    if len(shape) != 2:
        return "a matrix of codes"
    wanted = [(shape[0], shape[1] // GROUP)] if packed else [(shape[0], 1), (shape[0],), (1,), ()]
    return "" if scale in wanted else " or ".join(str(list(one)) for one in wanted)


def config_note(scheme: Scheme) -> dict[str, Any]:
    """What ``config.json`` says of a folder that we have quantised."""
    return {"quant_method": METHOD, "scheme": scheme, **({"group_size": GROUP} if scheme == "int4" else {})}


def scheme_of(raw: dict[str, Any]) -> Scheme | None:
    """The scheme that a folder's ``config.json`` names, None for float weights."""
    note = raw.get("quantization_config")
    if not isinstance(note, dict):
        return None
    return note.get("scheme") if note.get("quant_method") == METHOD else "fp8"


def note_problems(key: str, note: Any) -> Iterator[str]:
    """Why a folder that says of itself that it is quantised cannot be read."""
    if note is None:
        return
    method = note.get("quant_method") if isinstance(note, dict) and key == "quantization_config" else None
    if method == METHOD:
        if note.get("scheme") not in SCHEMES:
            yield f"{key}: scheme {note.get('scheme')!r} is not one of {', '.join(SCHEMES)}"
        elif note.get("group_size", GROUP) != GROUP:
            yield f"{key}: group_size {note['group_size']!r} is not {GROUP}"
    elif method != "fp8":
        yield f"{key}: the weights are quantised by {str(method)[:40]!r}; only {METHOD} and fp8 (AutoFP8) can be read"


def is_coded(name: str, shape: tuple[int, ...], scheme: Scheme) -> bool:
    """Whether the released tensor called ``name`` is one of those that quantisation codes."""
    return name.endswith("_proj.weight") and len(shape) == 2 and fits(shape, scheme)


def coded_entries(name: str, shape: tuple[int, ...], scheme: Scheme, read: Callable[[], Tensor]) -> list[Entry]:
    """The codes and scales to write for the matrix that ``read`` gives; it is read once for both."""
    from kaiyuan.checkpoint.writer import Entry

    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def part(which: int) -> Tensor:
        if not kept:
            kept[0] = quantize(read(), scheme)
        return kept[0][which] if which == 0 else kept.pop(0)[1]

    count, packed = math.prod(shape), scheme == "int4"
    scales = count // GROUP if packed else shape[0]
    return [
        Entry(f"{name}{PACKED}" if packed else name, count // 2 if packed else count, lambda: part(0)),
        Entry(f"{name}{SCALE}", 4 * scales, lambda: part(1)),
    ]
