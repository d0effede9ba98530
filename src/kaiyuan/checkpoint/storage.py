"""The weight files of a model folder: which there are, which tensors they hold, and reading one tensor at a time.

Opening a folder reads headers only. Nothing is ever unpickled beyond tensors, and file names from an index cannot lead
out of the folder.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kaiyuan.checkpoint import coded
from kaiyuan.checkpoint.hf_keys import show
from kaiyuan.checkpoint.names import Shape
from kaiyuan.errors import CheckpointError, DataError, listing
from kaiyuan.files import read_json
from kaiyuan.model.quantization import dequantize

FLOATS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes weights may have; everything else is a quantised or damaged file."""

_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_SHARD = re.compile(r"(model|pytorch_model)-(\d+)-of-(\d+)\.(safetensors|bin)")


@dataclass(frozen=True)
class Stored:
    """What a file's header says of one tensor."""

    name: str
    shape: Shape
    dtype: str
    file: Path
    codes: str | None = None
    """If the tensor is quantised: the name of its codes. Shape and dtype are those of what they stand for."""


@dataclass
class Storage:
    """The tensors of a folder by name, and everything that is wrong with its files."""

    files: list[Path]
    tensors: dict[str, Stored] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Tensors that the index places in a file that is missing or unreadable."""
    unknown: bool = False
    """Whether a file is missing or unreadable of which no index says what it held."""
    scales: dict[str, Stored] = field(default_factory=dict)
    """Scales of quantised tensors, by the name of the tensor."""
    ignored: list[Path] = field(default_factory=list)
    """Weight files of another format, which are left aside."""


def open_storage(folder: str | Path) -> Storage:
    """Find the weight files of ``folder`` and read their headers.

    Looks for safetensors first, then for PyTorch's ``.bin``; one file, or shards with or without an index. Raises a
    ``CheckpointError`` if there is no such folder, nothing of the kind in it, or no usable entry in its index; all else
    goes to ``problems``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder (models are read from local folders; download it first)")
    found = {kind: _weight_files(folder, *kind) for kind in (("model", "safetensors"), ("pytorch_model", "bin"))}
    kinds = [kind for kind, files in found.items() if files]
    if not kinds:
        raise CheckpointError(f"{folder}: no weights (model.safetensors, pytorch_model.bin, or shards of either)")
    storage = _collect(folder, *kinds[0], found[kinds[0]])
    storage.ignored = [file for kind in kinds[1:] for file in found[kind]]
    coded.fold(storage)
    return storage


def _weight_files(folder: Path, stem: str, suffix: str) -> list[Path]:
    """The folder's files of one format: the index if there is one, the single file, the shards."""
    shards = [path for path in sorted(folder.glob(f"{stem}-*.{suffix}")) if _SHARD.fullmatch(path.name)]
    wanted = [folder / f"{stem}.{suffix}.index.json", folder / f"{stem}.{suffix}", *shards]
    return [path for path in wanted if path.exists()]


def _collect(folder: Path, stem: str, suffix: str, found: list[Path]) -> Storage:
    index, single = folder / f"{stem}.{suffix}.index.json", folder / f"{stem}.{suffix}"
    if index in found:
        weight_map, problems = _read_index(index)
        if not weight_map:
            raise CheckpointError(listing(f"{folder} cannot be loaded", problems))
        if single in found and single.name not in weight_map.values():
            problems.append(f"{index.name}: does not name {single.name}, which lies beside it; remove one of the two")
        files = [folder / name for name in dict.fromkeys(weight_map.values())]
    else:
        weight_map, problems = {}, []
        files = [single] if single in found else found
        if single in found and len(found) > 1:
            problems.append(f"{single.name}: lies beside shards ({found[1].name}); remove one of the two")
    gaps = [] if weight_map else _gaps(files)
    storage = Storage(files, problems=problems + gaps, unknown=bool(gaps))
    _read_headers(storage, weight_map)
    return storage


def _read_index(index: Path) -> tuple[dict[str, str], list[str]]:
    """The index's map from tensor to file, without the entries that cannot be used."""
    try:
        raw = read_json(index)
    except DataError as error:
        return {}, [str(error)]
    except (OSError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        return {}, [f"{index.name}: cannot be read ({type(error).__name__})"]
    entries = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(entries, dict) or not entries:
        return {}, [f"{index.name}: has no weight_map"]
    weight_map, problems = {}, []
    for name, file in entries.items():
        if isinstance(file, str) and file not in (".", "..") and not re.search(r"[/\\\0]", file) and file:
            weight_map[name] = file
        else:
            problems.append(f"{index.name}: {name} lies in {show(file)}, which is no plain file name")
    return weight_map, problems


def _gaps(files: list[Path]) -> list[str]:
    """The shards that must exist too, going by the "-of-" in the names of those that do."""
    names = {path.name for path in files}
    problems = []
    for match in filter(None, (_SHARD.fullmatch(path.name) for path in files[:1])):
        stem, number, total, suffix = match.groups()
        if int(total) > 100_000:
            return [f"{files[0].name}: {int(total):,} shards are more than can be"]
        wanted = [f"{stem}-{i:0{len(number)}d}-of-{total}.{suffix}" for i in range(1, int(total) + 1)]
        problems = [f"{name}: missing shard" for name in wanted if name not in names]
        problems += [f"{name}: not one of {int(total)} shards" for name in sorted(names - set(wanted))]
    return problems


def _read_headers(storage: Storage, weight_map: dict[str, str]) -> None:
    broken = set()
    for file in storage.files:
        try:
            stored = list(read_header(file))
        except CheckpointError as error:
            storage.problems.append(str(error))
            broken.add(file.name)
            continue
        for tensor in stored:
            if tensor.name in storage.tensors:
                earlier = storage.tensors[tensor.name].file.name
                storage.problems.append(f"{tensor.name}: stored twice, in {earlier} and in {file.name}")
            storage.tensors[tensor.name] = tensor
    storage.unknown |= bool(broken) and not weight_map
    storage.lost = {name for name, place in weight_map.items() if place in broken}
    for name, place in weight_map.items():
        if place not in broken and (name not in storage.tensors or storage.tensors[name].file.name != place):
            storage.problems.append(f"{name}: not in {place}, where the index places it")
            storage.lost.add(name)


def read_header(file: Path) -> Iterator[Stored]:
    """What ``file`` holds, without reading the data."""
    if file.suffix == ".bin":
        for name, tensor in _load_bin(file).items():
            yield Stored(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), file)
        return
    with _open_safetensors(file) as handle:
        for name in handle.keys():  # noqa: SIM118 (a handle is no dictionary)
            entry = handle.get_slice(name)
            dtype = _SAFETENSORS_DTYPES.get(entry.get_dtype(), entry.get_dtype().lower())
            yield Stored(name, tuple(entry.get_shape()), dtype, file)


def _open_safetensors(file: Path) -> Any:
    if not file.is_file():
        raise CheckpointError(f"{file.name}: missing shard")
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name}: truncated or not a safetensors file ({_first_line(error)})") from None


def _load_bin(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.bin`` file, mapped into memory rather than read where the file allows it."""
    if not file.is_file():
        raise CheckpointError(f"{file.name}: missing shard")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on pickle protocols, of no use to whoever only reads the file
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged or hostile pickle can fail in any way there is
        raise CheckpointError(f"{file.name}: {_why_unreadable(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.name}: holds {type(content).__name__}, not a dictionary of tensors")
    for name, value in content.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not plain:
            raise CheckpointError(f"{file.name}: {show(name)} is {type(value).__name__}, not a plain tensor")
    return content


def _why_unreadable(error: Exception) -> str:
    """PyTorch's message without its advice to load the file unsafely."""
    if match := re.search(r"(?:GLOBAL|Unsupported (?:class|global):?) (?:GLOBAL )?([\w.]+)", str(error)):
        return f"refused: it holds more than tensors (it asks for {match[1]})"
    return f"truncated or not a PyTorch weight file ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return text[:120] or type(error).__name__


class TensorReader:
    """Reads tensors of a ``Storage`` one by one, in any order, with one file open at a time.

    Only one, because the pages of a mapped file count as the process's memory for as long as the file is open.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._file: Path | None = None
        self._opened: Any = None

    def __call__(self, name: str) -> Tensor:
        """The tensor called ``name``, as stored, or decoded to float32. It may be a view of the mapped file."""
        stored = self._storage.tensors[name]
        if stored.codes is None:
            return self._read(name, stored.file)
        scale = self._storage.scales[name]
        codes = self._read(stored.codes, stored.file).clone()  # the scale may lie in another file
        scales = self._read(scale.name, scale.file).float()
        return dequantize(codes, scales if scales.dim() == 2 else scales.reshape(-1, 1))

    def _read(self, name: str, file: Path) -> Tensor:
        if file != self._file:
            self._file = self._opened = None
            self._opened = _load_bin(file) if file.suffix == ".bin" else _open_safetensors(file)
            self._file = file
        return self._opened[name] if file.suffix == ".bin" else self._opened.get_tensor(name)


def in_file_order(storage: Storage, names: Iterable[str]) -> list[str]:
    """``names`` sorted by file, so that reading them in turn opens every file once."""
    place = {file: number for number, file in enumerate(storage.files)}
    return sorted(names, key=lambda name: place[storage.tensors[name].file])
