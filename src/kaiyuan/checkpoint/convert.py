"""Rewrite a model folder without building the model: ``.bin`` to safetensors, fused tensors to single ones, another
dtype, quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kaiyuan.checkpoint.coded import coded_entries, config_note, is_coded
from kaiyuan.checkpoint.hf_config import read_config, read_raw
from kaiyuan.checkpoint.names import released_tensors
from kaiyuan.checkpoint.plan import Source, checked_plan, finite, tied_problems
from kaiyuan.checkpoint.reader import not_finite, report_biases
from kaiyuan.checkpoint.storage import FLOATS, TensorReader, open_storage
from kaiyuan.checkpoint.writer import DEFAULT_SHARD_BYTES, INDEX, Entry, main_dtype, write_folder, written_dtype
from kaiyuan.errors import CheckpointError, listing
from kaiyuan.model.quantization import Scheme

_COPIED = (".jinja", ".json", ".md", ".model", ".py", ".tiktoken", ".txt")
_NOT_COPIED = ("config.json", INDEX, "pytorch_model.bin.index.json")


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    quantize: Scheme | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write the model in ``source`` to ``target`` as safetensors under the released names, one tensor at a time.

    ``dtype`` converts the weights (routers keep theirs); ``quantize`` codes the matrices of attention and experts
    (``kaiyuan.model.quantization``); a quantised source is decoded, to bfloat16 unless ``dtype`` says otherwise.
    ``config.json`` is kept but for its note of the dtype; the tokenizer, generation settings, licence and code are
    copied. Memory: one shard. Raises as ``load_model`` does.
    """
    source, target = Path(source), Path(target)
    storage = open_storage(source)
    if target.exists() and target.resolve() == source.resolve():
        raise CheckpointError(f"{target}: is the folder to convert; choose another target")
    config = read_config(source)
    plan = checked_plan(config, storage, source)
    report_biases(plan)
    read = _Reader(TensorReader(storage))
    if problems := tied_problems(plan, read.tensor):
        raise CheckpointError(listing(f"{source} cannot be converted", problems))
    entries: list[Entry] = []
    dtypes = {}
    for name, shape in released_tensors(config).items():
        stored = storage.tensors[plan.sources[name].stored]
        have = FLOATS[stored.dtype] if stored.codes is None else torch.bfloat16
        dtypes[name] = written_dtype(name, have, dtype)
        value = read.later(name, plan.sources[name], dtypes[name])
        if quantize is not None and is_coded(name, shape, quantize):
            entries += coded_entries(name, shape, quantize, value)
        else:
            entries.append(Entry(name, torch.Size(shape).numel() * dtypes[name].itemsize, value))
    raw = {key: value for key, value in read_raw(source).items() if key != "quantization_config"}
    noted = {"dtype" if "dtype" in raw else "torch_dtype": main_dtype(dtypes, dtype)}
    note = {} if quantize is None else {"quantization_config": config_note(quantize)}
    write_folder(entries, target, max_shard_bytes, {**raw, **noted, **note}, _companions(source))


class _Reader:
    """Takes released tensors out of stored ones; keeps the last stored one, of which the next is often part too."""

    def __init__(self, tensor: TensorReader) -> None:
        self.tensor = tensor
        self._last: tuple[str, Tensor] | None = None

    def later(self, name: str, source: Source, dtype: torch.dtype) -> Callable[[], Tensor]:
        """A function that reads, converts and checks the tensor when it is called."""

        def read() -> Tensor:
            if self._last is None or self._last[0] != source.stored:
                self._last = (source.stored, self.tensor(source.stored))
            stored = self._last[1]
            value = (stored if source.part is None else source.part.take(stored)).to(dtype)
            if not finite(value):
                raise CheckpointError(not_finite(name, source.stored, stored, value))
            return value

        return read


def _companions(source: Path) -> list[Path]:
    """The folder's files that belong to the model and are neither weights nor its config."""
    files = [path for path in sorted(source.iterdir()) if path.is_file() and not path.name.startswith(".")]
    named = [path for path in files if path.suffix in _COPIED or path.name.upper().startswith(("LICENSE", "NOTICE"))]
    return [path for path in named if path.name not in _NOT_COPIED]
