"""Loss, learning rates and gradients of pre-training and the long-context stages, and how fast it all went."""

from __future__ import annotations

from kaiyuan.report.html import Markup
from kaiyuan.report.line_chart import Mark, Series, Shade, grid_of, line_chart
from kaiyuan.report.numbers import integer, quantity
from kaiyuan.report.sections.layout import TITLES, Data, absent, section


def training(data: Data) -> Markup:
    if data["training"] is None:
        return absent(data, "training", "Training", "pretrain")
    found = data["training"]
    curves, shades, marks = found["curves"], annealing(found), boundaries(found)
    loss = line_chart(
        "Loss",
        [_series("every step", curves["loss"], "c1", "faint"), _series("smoothed", curves["smooth_loss"], "c1")],
        unit="nats per token", x_label="tokens", log=True, shades=shades, marks=marks, y_text=lambda y: f"{y:.3g}",
    )  # fmt: skip
    rates = [_series("all other parameters", curves["lr"], "c1"), _series("experts", curves["expert_lr"], "c2")]
    rate = line_chart("Learning rate", rates, x_label="tokens", zero=True, shades=shades, marks=marks, y_text=_small)
    norm = line_chart(
        "Gradient norm", [_series("before clipping", curves["grad_norm"], "c4", "line thin")],
        x_label="tokens", log=True, marks=marks, y_text=lambda y: f"{y:.3g}",
    )  # fmt: skip
    small = grid_of([rate, norm, speed(data)], "charts three")
    return section("training", "Training", _lead(data), grid_of([loss], "charts one"), small)


def _lead(data: Data) -> str:
    found = data["training"]
    text = f"Pre-training {'and long-context stages ' if len(found['segments']) > 1 else ''}on one axis of tokens"
    if any(part["anneal_start"] is not None for part in found["segments"]):
        text += "; in the shaded part the rate is annealed and the best data come first"
    return f"{text}. {_refused(found['refused_updates'])} refused by the loss guard."


def _refused(count: int) -> str:
    if count == 0:
        return "No update was"
    return "One update was" if count == 1 else f"{integer(count)} updates were"


def _series(name: str, curve: Data, color: str, kind: str = "line") -> Series:
    return Series(name, curve["x"], curve["y"], color, kind)


def _small(value: float) -> str:
    """A learning rate: ``0.002`` or ``5e-5``."""
    return f"{value:.3g}".replace("e-0", "e-")


def annealing(found: Data) -> list[Shade]:
    """The annealing phase of every segment that has one."""
    return [
        Shade(part["anneal_start"], part["end"], "annealing")
        for part in found["segments"]
        if part["anneal_start"] is not None
    ]


def boundaries(found: Data) -> list[Mark]:
    """Where the sequence length changes."""
    return [Mark(part["start"], f"sequences of {integer(part['length'])}") for part in found["segments"][1:]]


def speed(data: Data) -> Markup | None:
    """Tokens per second of every stage, each from its own start."""
    lines = [
        Series(f"{TITLES[row['stage']]} {quantity(row['mean'])}", row["curve"]["x"], row["curve"]["y"], color)
        for row, color in zip(data["time"]["throughput"], ("c1", "c2", "c3", "c4"), strict=False)
    ]
    unit = "tokens per second, with means"
    return line_chart("Throughput", lines, unit=unit, x_label="tokens of the stage", zero=True)
