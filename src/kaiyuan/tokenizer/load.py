"""Finding and reading a tokenizer: our folders, those of transformers, and ``*.tiktoken`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from kaiyuan.errors import CheckpointError
from kaiyuan.tokenizer.special import SpecialNames
from kaiyuan.tokenizer.tiktoken_file import load_tiktoken
from kaiyuan.tokenizer.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer, read_settings

_RANKS = "*.tiktoken"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a folder (``tokenizer.json``, else a ``*.tiktoken`` file), or one of these files itself.

    A ``tokenizer.json`` of another model works if it is byte-level BPE; which of its special tokens begins a text and
    which ends it is read from the ``tokenizer_config.json`` beside it. Raises ``CheckpointError`` if nothing is there,
    or what is there cannot be read.
    """
    file = _file(Path(path))
    return load_tiktoken(file) if file.suffix == ".tiktoken" else _load_json(file)


def has_tokenizer(folder: str | Path) -> bool:
    """Whether ``folder`` has a file that ``load_tokenizer`` would read."""
    folder = Path(folder)
    return (folder / TOKENIZER_FILE).is_file() or any(folder.glob(_RANKS))


def _file(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in (".json", ".tiktoken"):
            raise CheckpointError(f"{path}: not a tokenizer: expected a folder, {TOKENIZER_FILE} or {_RANKS}")
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    if (path / TOKENIZER_FILE).is_file():
        return path / TOKENIZER_FILE
    ranks = sorted(path.glob(_RANKS))
    if not ranks:
        raise CheckpointError(f"{path}: no tokenizer in this folder: looked for {TOKENIZER_FILE} and {_RANKS}")
    if len(ranks) > 1:
        names = ", ".join(file.name for file in ranks)
        raise CheckpointError(f"{path}: more than one tokenizer ({names}): give the path of one of them")
    return ranks[0]


def _load_json(file: Path) -> Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{file}: not a tokenizer that the tokenizers library can read: {error}") from None
    names = _names(backend, read_settings(file.with_name(CONFIG_FILE)))
    try:
        return Tokenizer(backend, names)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _names(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> SpecialNames:
    """The release's names where the tokenizer has them, else what ``tokenizer_config.json`` says."""
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}

    def name(default: str, key: str) -> str:
        given = settings.get(key)
        given = given.get("content") if isinstance(given, dict) else given  # older files describe the token
        return given if isinstance(given, str) and given in known and default not in known else default

    default = SpecialNames()
    eos = name(default.eos, "eos_token")
    return SpecialNames(
        bos=name(default.bos, "bos_token"),
        document_end=default.document_end if default.document_end in known else eos,
        eos=eos,
        pad=name(default.pad, "pad_token"),
    )
