"""Datasets of the Hugging Face hub by name, streamed, and folders in the forms that its library writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources.document import Item, one_line
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.rows import Fields
from kaiyuan.corpus.sources.spec import Source, problem
from kaiyuan.errors import DataError
from kaiyuan.files import fingerprint

SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.+-]+))?(?:/(?P<split>[\w.+\[\]:%-]+))?", re.ASCII
)
_LOCAL = re.compile(r"hf://(?P<name>[./~].*?)(?::(?P<config>[\w.+-]+))?(?:#(?P<split>[\w.+-]+))?")


def address(source: Source) -> tuple[str, str | None, str]:
    """(name, config, split) of ``hf://owner/name[:config][/split]``; the split is ``train`` unless stated.

    A folder is ``hf://./folder[:config][#split]``.
    """
    found = _LOCAL.fullmatch(source.path) or _ADDRESS.fullmatch(source.path)
    if found is None:
        raise problem(source, "write hf://owner/name, hf://owner/name:config or hf://owner/name:config/split")
    return found["name"], found["config"], found["split"] or "train"


def find(source: Source) -> Iterator[Part]:
    """A part for every shard of the dataset."""
    name, config, split = address(source)
    dataset = _open(source)
    shown = ":".join(filter(None, (name, config))) + f"/{split}"
    for number in range(_shards(dataset)):
        yield Part(Path(shown), shown, 0, number, number + 1)


def identity(source: Source) -> str:
    """What tells one state of the dataset from another: its commit on the hub, or the files of the folder."""
    name, _, _ = address(source)
    if folder := _folder(name):
        states = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        return fingerprint([[str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns] for path, stat in states])
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(name, revision=source.revision or None).sha or source.revision
    except Exception as error:  # of its client, of the network, of the name
        raise _failure(source, error) from None


def rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset as they are; a ``DataError`` if it cannot be read."""
    source = Source(path=path)
    try:
        yield from map(dict, _open(source))
    except DataError:
        raise
    except Exception as error:  # of many libraries
        raise _failure(source, error) from None


def read(part: Part, source: Source) -> Iterator[Item]:
    """Rows of the shards of ``part``, placed by shard and number."""
    dataset, fields = _open(source), Fields(source)
    shards = _shards(dataset)
    for shard in range(part.start, shards if part.stop is None else part.stop):
        number = -1
        try:
            for number, row in enumerate(dataset.shard(num_shards=shards, index=shard)):
                yield fields.document(dict(row), f"{part.name}#{shard}.{number}")
        except Exception as error:  # of many libraries: file systems, Arrow, the hub
            detail = f"after row {number} of shard {shard}: {type(error).__name__}: {one_line(error)}"
            yield source.dead(f"{part.name}#{shard}.{number + 1}", "damaged file", detail)


def _folder(name: str) -> Path | None:
    """The folder that a name means; None for a dataset of the hub."""
    return Path(name).expanduser() if name[0] in "./~" else None


def _shards(dataset: Any) -> int:
    return max(1, int(getattr(dataset, "num_shards", 1)))


def _open(source: Source) -> Any:
    try:
        import datasets
    except ImportError:
        raise problem(source, "this needs Hugging Face's library: pip install 'kaiyuan[parquet]'") from None
    name, config, split = address(source)
    folder = _folder(name)
    datasets.disable_progress_bars()
    try:
        if folder and ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists()):
            return _saved(datasets.load_from_disk(str(folder)), split)
        return datasets.load_dataset(
            str(folder or name), config, split=split, streaming=True, revision=source.revision or None
        )
    except Exception as error:  # its library raises errors of several others
        raise _failure(source, error) from None


def _saved(loaded: Any, split: str) -> Any:
    """A dataset of one folder, or the split of a folder of several."""
    if isinstance(loaded, dict):
        if split not in loaded:
            raise ValueError(f"no split {split!r} among {', '.join(loaded)}")
        loaded = loaded[split]
    return loaded.to_iterable_dataset(num_shards=1)


def _failure(source: Source, error: Exception) -> DataError:
    """What an error of the library or the network means for the one who named the dataset."""
    if isinstance(error, ConnectionError | TimeoutError) or "offline" in str(error).lower():
        advice = "download the dataset elsewhere (hf download) and give its folder"
        return problem(source, f"the Hugging Face hub cannot be reached; {advice}")
    return problem(source, f"{type(error).__name__}: {one_line(error)}; check name, config, split and revision")
