"""A vocabulary of 128K trained here, and its compression against vocabularies that others ship.

    python benchmarks/tokenizer.py --poetry chinese-poetry-2.0.1.tgz --peers .venv-vocabularies/bin/python

``npm pack chinese-poetry@2.0.1`` fetches the first; ``tokenizer_peers.py`` says how to make the second. Both may be
left out. The text is what ``tokenizer_corpus.py`` finds on this machine. Training runs through ``train_tokenizer`` in a
process of its own for 1/16, 1/4 and all of the text; time and peak memory of each are printed. Then held-out text is
encoded: bytes per token by domain and vocabulary, round trips, and ids against tiktoken for every shared vocabulary.
Results lie in ``--work`` (table.json, table.svg, the tokenizer); what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from tokenizer_corpus import SHARES, UNSEEN, domains, unseen

HELD_OUT_BYTES = 400_000
"""Most that a domain holds out."""
HERE = Path(__file__).parent
OURS = "kaiyuan 128K"


def size(texts: list[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def take(texts: list[str], limit: float) -> list[str]:
    """The first documents of ``texts``, until they hold ``limit`` bytes."""
    taken, total = [], 0
    for text in texts:
        if total >= limit:
            break
        taken.append(text)
        total += size([text])
    return taken


def gather(options: argparse.Namespace) -> None:
    """Write train.json and heldout.json: texts by domain."""
    found = domains(options.poetry)
    held, rest = {}, {}
    for domain, texts in found.items():
        held[domain] = take(texts, min(HELD_OUT_BYTES, 0.1 * size(texts)))
        rest[domain] = texts[len(held[domain]) :]
    whole = 1e6 * options.megabytes
    train = {domain: take(rest[domain], share * whole) for domain, share in SHARES.items()}
    for domain in list(SHARES)[:2]:
        missing = whole - sum(map(size, train.values()))
        train[domain] = take(rest[domain], size(train[domain]) + max(0.0, missing))
    held["code, packages"] = held.pop("code")
    held["maths"] += held.pop("worked problems")
    held |= {domain: take(texts, HELD_OUT_BYTES) for domain, texts in unseen().items()}
    held["mixed"] = mixed(held)
    write(options.work / "heldout.json", dict(sorted(held.items())))
    write(options.work / "train.json", train)


def mixed(held: dict[str, list[str]]) -> list[str]:
    """Documents whose lines come from all domains in turn."""
    lines = {domain: "\n".join(texts).split("\n")[:1500] for domain, texts in held.items()}
    rows = zip(*lines.values(), strict=False)
    joined = ["\n".join(row) for row in rows]
    return ["\n".join(joined[start : start + 20]) for start in range(0, len(joined), 20)]


def write(path: Path, value: object) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8", errors="replace")
    temporary.replace(path)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def train_share(work: Path, share: int, vocabulary: int) -> None:
    """In a process of its own: train on one ``share``-th of every domain and write what it took."""
    from kaiyuan.errors import DataError
    from kaiyuan.tokenizer import train_tokenizer

    texts = [text for group in read(work / "train.json").values() for text in take(group, size(group) / share)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = time.perf_counter()
    found = vocabulary
    try:
        tokenizer = train_tokenizer(texts, vocabulary)
    except DataError as error:  # too little text for so many tokens: as many as it gives
        found = int(str(error).split("it gives ")[1].split(".")[0])
        begin = time.perf_counter()
        tokenizer = train_tokenizer(texts, found)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokenizer.save(work / f"tokenizer-{share}")
    write(work / f"training-{share}.json", {
        "MB": size(texts) / 1e6, "vocabulary": found, "seconds": seconds, "peak MiB": peak, "before MiB": before,
    })  # fmt: skip


def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Bytes per token, by domain and vocabulary, of held-out text."""
    from kaiyuan.tokenizer import load_tokenizer

    held = read(options.work / "heldout.json")
    tokenizer = load_tokenizer(options.work / "tokenizer-1")
    tokens = {OURS: {domain: sum(map(len, tokenizer.encode_batch(texts))) for domain, texts in held.items()}}
    check_round_trips(tokenizer, held)
    if options.peers:
        peers(options, "counts", options.work / "heldout.json", options.work / "counts.json")
        tokens |= read(options.work / "counts.json")
        check_ids(options, held)
    sizes = {domain: size(texts) for domain, texts in held.items()}
    return {
        domain: {name: round(sizes[domain] / count[domain], 3) for name, count in tokens.items()} for domain in held
    }


def check_round_trips(tokenizer: object, held: dict[str, list[str]]) -> None:
    import unicodedata

    texts = [text for group in held.values() for text in group]
    back = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)]
    same = sum(one == other for one, other in zip(texts, back, strict=True))
    nfc = sum(unicodedata.normalize("NFC", one) == other for one, other in zip(texts, back, strict=True))
    print(f"round trips: {same} of {len(texts)} texts come back as they were, {nfc} in NFC")


def check_ids(options: argparse.Namespace, held: dict[str, list[str]]) -> None:
    """Our loader's ids against tiktoken's, from the same ranks, for every vocabulary and held-out text."""
    import unicodedata

    from kaiyuan.tokenizer import load_tiktoken
    from kaiyuan.tokenizer.byte_level import PATTERN
    from tokenizer_peers import digest

    folder = options.work / "ranks"
    folder.mkdir(exist_ok=True)
    peers(options, "ranks", folder)
    normal = {domain: [unicodedata.normalize("NFC", text) for text in texts] for domain, texts in held.items()}
    write(options.work / "normal.json", normal)
    peers(options, "ids", folder, PATTERN, options.work / "normal.json", options.work / "ids.json")
    for name, expected in read(options.work / "ids.json").items():
        tokenizer = load_tiktoken(folder / f"{name}.tiktoken")
        same = sum(digest(tokenizer.encode_batch(normal[domain])) == hash_ for domain, hash_ in expected.items())
        print(f"ids of {name:10s} by our loader equal tiktoken's in {same} of {len(expected)} domains")


def peers(options: argparse.Namespace, *arguments: object) -> None:
    subprocess.run([options.peers, str(HERE / "tokenizer_peers.py"), *map(str, arguments)], check=True)


def show_training(options: argparse.Namespace) -> None:
    print(f"\n{'text':>8s} {'vocabulary':>11s} {'time':>8s} {'peak memory':>12s}")
    for share in options.shares:
        row = read(options.work / f"training-{share}.json")
        memory = f"{row['peak MiB'] / 1024:.2f} GiB"
        print(f"{row['MB']:5.1f} MB {row['vocabulary']:11,d} {row['seconds']:6.1f} s {memory:>12s}")


def show_table(table: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(table.values())))
    print("\nbytes per token on held-out text (* a source that ours was not trained on)\n")
    print("| text | " + " | ".join(names) + " |")
    print("|---|" + "---:|" * len(names))
    for domain, row in table.items():
        mark = "*" if domain in UNSEEN.values() else ""
        print(f"| {domain}{mark} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/tokenizer-benchmark"))
    parser.add_argument("--poetry", type=Path, help="chinese-poetry-2.0.1.tgz")
    parser.add_argument("--peers", help="python of the environment that tokenizer_peers.py describes")
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--shares", type=int, nargs="*", default=[16, 4, 1])
    parser.add_argument("--train-share", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.train_share:
        train_share(options.work, options.train_share, options.vocabulary)
        return
    if not (options.work / "train.json").exists():
        gather(options)
    for domain, texts in read(options.work / "train.json").items():
        print(f"{size(texts) / 1e6:7.2f} MB  {len(texts):6d} documents  {domain}")
    for share in options.shares:
        if not (options.work / f"training-{share}.json").exists():
            settings = ["--work", options.work, "--vocabulary", options.vocabulary, "--train-share", share]
            subprocess.run([sys.executable, __file__, *map(str, settings)], check=True)
    show_training(options)
    table = measured(options)
    write(options.work / "table.json", table)
    show_table(table)
    if options.peers:
        peers(options, "plot", options.work / "table.json", options.work / "table.svg")


if __name__ == "__main__":
    main()
