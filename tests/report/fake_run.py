"""A run folder made up from formulas: looks like a real run, takes no time, and can be given anything to show."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

from kaiyuan.checkpoint import write_config
from kaiyuan.files import write_json, write_jsonl, write_text
from kaiyuan.model.config import ModelConfig
from kaiyuan.recipe import Recipe, dump
from kaiyuan.training.schedule import Schedule

LAYERS, EXPERTS = 4, 16
KINDS = ("addition", "capital", "colour", "comparison", "counting", "element", "letter", "month", "multiplication",
         "opposite", "parity", "reversal", "sorting", "subtraction", "succession", "weekday")  # fmt: skip
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'\u202e"
"""What a model might say to break the page that shows it."""


def make_run(folder: Path, *, leave_out: tuple[str, ...] = (), speed: float = 1.0, steps: int = 732) -> Path:
    """Write a finished run into ``folder`` without the stages in ``leave_out``; ``speed`` changes all times only."""
    write_text(folder / "recipe.json", dump(_recipe()) + "\n")
    write_json(folder / "versions.json", {"kaiyuan": "0.1.0", "python": "3.11.9", "torch": "2.13.0",
               "machine": "x86_64, 2 cores"})  # fmt: skip
    rng = Random(7)
    writers = {
        "corpus": _corpus, "tokenizer": _tokenizer, "synthesis": _synthesis, "pretrain": _pretrain, "extend": _extend,
        "sft": _sft, "dpo": _dpo, "evaluation": _evaluation,
    }  # fmt: skip
    for number, (stage, writer) in enumerate(writers.items()):
        path = folder / stage
        path.mkdir(parents=True)
        report = writer(path, rng, speed, steps)
        seconds = (4, 9, 3, 310, 66, 95, 80, 58)[number] / speed
        time = {"seconds": seconds, "peak_memory_bytes": int((0.9 + 0.2 * number) * 2**30 / speed)}
        write_json(path / "manifest.json", {"stage": stage, "report": report, "time": time})
        if stage in leave_out:
            _remove(path)
    return folder


def _remove(path: Path) -> None:
    for file in sorted(path.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    path.rmdir()


def _recipe() -> Recipe:
    mixture = {"books": 0.6, "web": 0.4}
    return Recipe.model_validate({
        "run": {"name": "demo", "seed": 1}, "model": {"preset": "1m"}, "tokenizer": {"vocab_size": 4096},
        "pretrain": {"tokens": 3_000_000, "sequence_length": 256, "batch_size": 16, "lr": 0.004, "warmup": 60,
                     "mixture": mixture},
        "extend": {"batch_size": 8, "lr": 0.001, "warmup": 4, "anneal_share": 0.3, "mixture": mixture,
                   "stages": [{"length": 1024, "tokens": 160_000, "rope_theta": 40000.0},
                              {"length": 4096, "tokens": 160_000, "rope_theta": 200000.0}]},
        "sft": {"lr": 0.002, "batch_size": 8}, "dpo": {"steps": 40, "batch_size": 16, "lr": 0.0002},
    })  # fmt: skip


def _corpus(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    report = {
        "documents": {"read": 1179, "after language": 1171, "after quality": 1149, "after deduplication": 1134,
                      "train": 1099, "heldout": 35},
        "bytes": {"read": 8_431_508,
                  "train": {"en": {"books": 2_401_000, "web": 1_031_000}, "code": {"code": 398_211},
                            "zh": {"books": 812_000, "poetry": 440_100, "scripture": 3_050_112}},
                  "heldout": {"en": {"books": 47_000, "web": 32_234}, "zh": {"books": 21_102, "scripture": 78_933}}},
        "rejected": {"too many repeated lines": 14, "near-duplicate": 12, "language": 8, "too short": 8,
                     "duplicate": 3},
        "pii": {"email": 41, "ip": 3, "phone": 12}, "generated": {"arithmetic": 2011, "knowledge": 1989, "recall": 600},
    }  # fmt: skip
    write_json(path / "report.json", report)
    return report


def _tokenizer(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    shards = {"books": (980_000, 402), "scripture": (890_000, 288), "web": (350_000, 235)}
    report = {
        "vocab_size": 4096, "trained": True, "characters_per_token": {"code": 2.61, "en": 3.42, "zh": 1.37},
        "shards": {label: {"tokens": tokens, "documents": documents, "bytes": tokens * 3}
                   for label, (tokens, documents) in shards.items()},
    }  # fmt: skip
    write_json(path / "report.json", report)
    return report


def _synthesis(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    report = {"instructions": 8800, "accepted": 8533, "sft_samples": 8500, "recall_samples": 500,
              "preference_pairs": 600, "held_out_problems": 480}  # fmt: skip
    write_json(path / "report.json", report)
    return report


def _line(rng: Random, step: int, tokens: int, loss: float, lr: float, speed: float, last: bool) -> dict[str, Any]:
    line = {
        "step": step, "tokens": tokens, "lr": lr, "expert_lr": 0.31 * lr, "applied": step != 300,
        "grad_norm": 0.4 + 2.5 * math.exp(-step / 40) + rng.expovariate(9), "loss": loss + rng.gauss(0, 0.09),
        "balance_loss": 1.03 + math.exp(-step / 50), "z_loss": 5.1,
        "time": {"seconds": 0.41 / speed, "tokens_per_second": tokens * speed / 0.41 * rng.uniform(0.93, 1.05)},
    }  # fmt: skip
    if step % 10 == 0 or last:
        line["router"] = router_line(rng, step)
    return line


def router_line(rng: Random, step: int) -> dict[str, Any]:
    load, uneven = [], 1.1 * math.exp(-step / 90) + 0.16
    for layer in range(LAYERS):
        raw = [math.exp(uneven * math.sin(3.1 * n + 1.7 * layer) + rng.gauss(0, 0.07)) for n in range(EXPERTS)]
        load.append([round(min(value / sum(raw), 1.25 / EXPERTS * 1.4), 5) for value in raw])
    return {
        "load": load, "violation": [round(max(layer) * EXPERTS - 1, 4) for layer in load],
        "dropped": [0.0] * LAYERS, "recycled": [round(0.3 * uneven + 0.03 * n, 5) for n in range(LAYERS)],
        "entropy": [round(2.75 - 1.6 * (1 - math.exp(-step / 200)) - 0.12 * n, 4) for n in range(LAYERS)],
        "balance_loss": [1.05] * LAYERS,
    }  # fmt: skip


def _train(path: Path, rng: Random, speed: float, schedule: Schedule, tokens: int, loss_of: Any) -> int:
    lines = [_line(rng, step, tokens, loss_of(step), schedule(step), speed, step == schedule.steps - 1)
             for step in range(schedule.steps)]  # fmt: skip
    write_jsonl(path / "metrics.jsonl", lines)
    return tokens * schedule.steps


def _model(path: Path, context: int) -> None:
    (path / "model").mkdir(parents=True)
    config = ModelConfig.preset("1m", vocab_size=4096, max_position_embeddings=context, rope_theta=200_000.0)
    write_config(config, path / "model")


def _pretrain(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    def loss(step: int) -> float:
        return 2.95 + 5.3 * math.exp(-step / 45) + 1.2 * math.exp(-step / 300)

    tokens = _train(path, rng, speed, Schedule(0.004, steps, 60), 4096, loss)
    _model(path, 256)
    return {"steps": steps, "tokens": tokens, "refused_updates": 1}


def _extend(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    for length in (1024, 4096):
        (path / f"stage-{length}").mkdir()
        schedule = Schedule(0.001, 20, 4, anneal_share=0.3)
        _train(path / f"stage-{length}", rng, speed, schedule, 8192, lambda step: 3.2 + 0.4 * math.exp(-step / 5))
    _model(path, 4096)
    return {"tokens": 40 * 8192}


def _sft(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    _train(path, rng, speed, Schedule(0.002, 240, 20), 3100, lambda step: 0.35 + 2.4 * math.exp(-step / 30))
    _model(path, 4096)
    return {"steps": 240}


def _dpo(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    lines = []
    for step in range(40):
        rise = 1 - math.exp(-step / 12)
        line = _line(rng, step, 900, 0.8, 0.0002, speed, False)
        chosen, rejected = 0.3 * rise + rng.gauss(0, 0.05), -1.1 * rise + rng.gauss(0, 0.1)
        lines.append({**line, "loss": 0.9 - 0.3 * rise, "dpo_loss": 0.69 - 0.4 * rise + rng.gauss(0, 0.03),
                      "sft_loss": 0.21 + rng.gauss(0, 0.02), "chosen_reward": chosen, "rejected_reward": rejected,
                      "margin": chosen - rejected, "accuracy": min(1, 0.5 + 0.45 * rise + rng.gauss(0, 0.05)),
                      "online_pairs": rng.randrange(3, 9),
                      "sample_reward": 0.7 + 0.1 * rise + rng.gauss(0, 0.04)})  # fmt: skip
    write_jsonl(path / "metrics.jsonl", lines)
    _model(path, 4096)
    return {"steps": 40}


def _evaluation(path: Path, rng: Random, speed: float, steps: int) -> dict[str, Any]:
    skill = {"pretrain": 0.38, "extend": 0.36, "sft": 0.74, "dpo": 0.79}
    rates = {"pretrain": (2.31, 2.42), "extend": (2.27, 2.39), "sft": (2.49, 2.66), "dpo": (2.51, 2.67)}
    stages = {}
    for name, share in skill.items():
        stages[name] = {
            "form": "plain" if name in ("pretrain", "extend") else "chat",
            "bits_per_byte": {
                "en": {"bits_per_byte": rates[name][0], "bytes": 79_234, "tokens": 23_011, "documents": 12},
                "zh": {"bits_per_byte": rates[name][1], "bytes": 100_035, "tokens": 24_345, "documents": 23},
            },
            "tasks": _tasks(rng, share),
            "needle": _needle(rng, name),
            "samples": [
                {"prompt": "Tell me about the sea.", "answer": f"The sea is the sea of the sea, said {name}."},
                {"prompt": "法国的首都是哪里？", "answer": "巴黎" if share > 0.5 else "法国的首都是法国的人"},
            ],
        }
    compression = {"en": {"xz_bits_per_byte": 2.384, "bytes": 79_234, "behind": "same language"},
                   "zh": {"xz_bits_per_byte": 2.718, "bytes": 100_035, "behind": "same language"}}  # fmt: skip
    write_text(path / "results.json", json.dumps({"compression": compression, "stages": stages}))
    return {}


def _tasks(rng: Random, share: float) -> dict[str, Any]:
    answers = []
    for number in range(480):
        kind, language = KINDS[number % len(KINDS)], ("en", "zh")[number // len(KINDS) % 2]
        prompt = f"What is {number} + 47?" if language == "en" else f"{number}加上47等于多少？"
        right = rng.random() < share + 0.2 * math.sin(KINDS.index(kind)) and number > 0
        said = str(number + 47) if right else f"The answer is {number}." if number > 0 else HOSTILE
        answers.append({"prompt": prompt + (HOSTILE if number == 2 else ""), "expected": str(number + 47),
                        "answer": said, "correct": right, "kind": kind, "language": language})  # fmt: skip

    def accuracy(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"accuracy": sum(row["correct"] for row in rows) / len(rows), "count": len(rows)}

    return {
        **accuracy(answers),
        "by_kind": {kind: accuracy([row for row in answers if row["kind"] == kind]) for kind in KINDS},
        "by_language": {code: accuracy([row for row in answers if row["language"] == code]) for code in ("en", "zh")},
        "answers": answers,
    }


def _needle(rng: Random, name: str) -> dict[str, Any] | None:
    lengths, depths = [256, 512, 1024, 2048, 4096], [0.0, 0.25, 0.5, 0.75, 1.0]
    if name == "sft":
        return None
    accuracy: list[list[float | None]] = [
        [None if name == "pretrain" and length > 256 else
         round(max(0.0, min(1.0, 1.15 - length / 6000 - 0.5 * (depth in (0.25, 0.5)) * length / 4096)) * 4) / 4
         for depth in depths] for length in lengths
    ]  # fmt: skip
    return {"lengths": lengths, "depths": depths, "accuracy": accuracy, "count": 100, "samples": 4}
