"""The commands ``kaiyuan curate`` and ``kaiyuan review``."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from kaiyuan.corpus.sources.spec import Source
from kaiyuan.curation.build import CANDIDATES, DECISIONS, Selection, build, describe
from kaiyuan.curation.log import DecisionLog, standings
from kaiyuan.curation.sample import read_samples
from kaiyuan.errors import ConfigError, listing
from kaiyuan.files import write_json, write_jsonl
from kaiyuan.settings import problems_of


def extract_into(folder: Path, sources: Sequence[str]) -> str:
    """Write ``candidates.jsonl`` and ``extraction.json`` from all ``sources``."""
    from kaiyuan.curation.extract.run import Extracted, extract

    counts = Extracted()
    total = write_jsonl(folder / CANDIDATES, (item.row() for item in extract(map(Source.of, sources), counts)))
    write_json(folder / "extraction.json", counts.as_json())
    methods = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.samples.items()))
    return f"{total:,} candidates ({methods or 'none'}), {counts.left_out.total():,} left out\n{folder / CANDIDATES}"


def check_folder(folder: Path) -> str:
    """Decide by rules about every candidate that this version of them has not decided about."""
    from kaiyuan.curation.rules import VERSION, check

    with DecisionLog(folder / DECISIONS) as log:
        known = standings(log.decisions)
        done = {name for name, found in known.items() if found.rules and found.rules.version == VERSION}
        new = [item for item in check(read_samples(folder / CANDIDATES)) if item.sample not in done]
        log.append(new)
    reasons = Counter(reason for item in new for reason in item.reasons)
    lines = [f"{len(new):,} samples checked, {sum(bool(item.reasons) for item in new):,} refused"]
    return "\n".join([*lines, *(f"{count:8,}  {reason}" for reason, count in reasons.most_common())])


def build_version(folder: Path, name: str, settings: Path | None, at: int | None) -> str:
    """Build a version with the ``Selection`` of a TOML file."""
    return describe(build(folder, name, selection_of(settings), at))


def selection_of(path: Path | None) -> Selection:
    if path is None:
        return Selection()
    try:
        return Selection.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(listing(f"{path} cannot be used", problems_of(error))) from None
