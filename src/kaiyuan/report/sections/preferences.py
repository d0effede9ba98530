"""SFT and DPO: losses, rewards, and what the pairs were made of."""

from __future__ import annotations

from kaiyuan.report.html import Markup
from kaiyuan.report.line_chart import Series, grid_of, line_chart
from kaiyuan.report.numbers import percent, signed
from kaiyuan.report.sections.layout import Data, absent, section

_REWARDS = {"chosen_reward": "chosen", "rejected_reward": "rejected", "margin": "margin"}
_COLORS = ("c1", "c2", "c3", "c4")


def preferences(data: Data) -> Markup:
    dpo, sft = data["dpo"], data["sft"]
    if dpo is None and sft is None:
        return absent(data, "alignment", "SFT and DPO", "sft")
    charts = [_chart(sft, "SFT loss", {"loss": "loss"}, unit="nats per token")]
    if dpo is not None:
        charts += [
            _chart(dpo, "DPO loss", {"dpo_loss": "preference", "sft_loss": "SFT on chosen"}),
            _chart(dpo, "Implicit reward", _REWARDS, unit="β × nats"),
            _chart(dpo, "Pairs ranked right", {"accuracy": "accuracy"}, share=True),
            _chart(dpo, "Online pairs", {"online_pairs": "pairs a step"}, unit="from the policy's own samples"),
            _chart(dpo, "Reward of samples", {"sample_reward": "mean of a step"}, share=True),
        ]
    lead = (
        "DPO on prepared pairs and on pairs from the policy's own samples, with the SFT loss on the chosen answer. "
        "Pale lines are single steps, strong ones their moving average."
    )
    return section("alignment", "SFT and DPO", lead, grid_of(charts, "charts three"))


def _chart(
    stage: Data | None, title: str, names: dict[str, str], *, unit: str = "", share: bool = False
) -> Markup | None:
    if stage is None:
        return None
    lines = []
    for (key, name), color in zip(names.items(), _COLORS, strict=False):
        found = stage["curves"].get(key)
        if found:
            lines.append(Series(f"{name}, single steps", found["raw"]["x"], found["raw"]["y"], color, "faint"))
            lines.append(Series(name, found["smooth"]["x"], found["smooth"]["y"], color))
    text = percent if share else signed
    return line_chart(title, lines, unit=unit, x_label="step", zero=share, y_text=text, top=1.0 if share else None)
