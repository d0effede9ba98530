"""The head of the page: what was made, in one sentence and eight figures."""

from __future__ import annotations

from kaiyuan.report.html import Content, Markup, tag
from kaiyuan.report.numbers import MISSING, binary, decimal, duration, integer, interval, percent, quantity
from kaiyuan.report.sections.layout import Data, active_experts, language

_SHOWN_LANGUAGES = ("en", "zh")


def headline(data: Data) -> Markup:
    tiles = [
        _parameters(data),
        _tokens(data),
        *(_bits_per_byte(data, code) for code in _SHOWN_LANGUAGES),
        _accuracy(data, "sft", "after SFT"),
        _accuracy(data, "dpo", "after DPO"),
        _kv(data),
        _time(data),
    ]
    return tag(
        "header",
        tag("p", "kaiyuan 开元 · run report", class_="brand"),
        tag("h1", data["name"]),
        tag("p", _sentence(data), class_="summary"),
        tag("div", *tiles, class_="tiles"),
    )


def _sentence(data: Data) -> str:
    model = data["model"]
    if model is None:
        return "No model has been trained in this run yet; what is done so far is below."
    config, count = model["config"], model["parameters"]
    text = (
        f"A mixture-of-experts language model of {quantity(count['total'])} parameters, {quantity(count['active'])} of "
        f"them active per token ({config['num_layers']} layers, {active_experts(config)})"
    )
    done = [stage for stage in ("pretrain", "sft", "dpo") if data["stages"][stage] == "done"]
    if done[-1:] != ["pretrain"] and done:
        text += ", taken from raw text to answers"
    seconds = data["time"]["seconds"]
    machine = (data["versions"] or {}).get("machine")
    return text + (f" in {duration(seconds)}" if seconds else "") + (f" on {machine}." if machine else ".")


def _tile(label: str, value: Content, *notes: Content, title: str = "") -> Markup:
    return tag(
        "div",
        tag("div", label, class_="tile-label"),
        tag("div", value, class_="tile-value"),
        *(tag("div", note, class_="tile-note") for note in notes if note),
        class_="tile" if value != MISSING else "tile empty",
        title=title or None,
    )


def _parameters(data: Data) -> Markup:
    if data["model"] is None:
        return _tile("Parameters", MISSING, "no model yet")
    count = data["model"]["parameters"]
    return _tile("Parameters", quantity(count["total"]), f"{quantity(count['active'])} active per token",
                 title=f"{integer(count['total'])} in total, {integer(count['active'])} active")  # fmt: skip


def _tokens(data: Data) -> Markup:
    training = data["training"]
    if training is None:
        return _tile("Tokens trained", MISSING, "no training yet")
    before = sum(part["end"] - part["start"] for part in training["segments"] if part["stage"] == "pretrain")
    rest = training["tokens"] - before
    note = f"{integer(training['steps'])} steps" + (f", {quantity(rest)} tokens at longer context" if rest else "")
    return _tile("Tokens trained", quantity(training["tokens"]), note)


def _bits_per_byte(data: Data, code: str) -> Markup:
    label = f"Bits per byte, {language(code)}"
    evaluation = data["evaluation"] or {"stages": {}, "compression": {}}
    bases = [stage for stage in ("pretrain", "extend") if code in _rates(evaluation, stage)]
    if not bases:
        return _tile(label, MISSING, "not evaluated")
    rate = _rates(evaluation, bases[-1])[code]["bits_per_byte"]
    yardstick = evaluation["compression"].get(code)
    if yardstick is None:
        return _tile(label, decimal(rate), "held-out text")
    xz = yardstick["xz_bits_per_byte"]
    note = f"{percent(abs(1 - rate / xz))} {'below' if rate <= xz else 'above'} xz -9e at {decimal(xz)}"
    return _tile(label, decimal(rate), note, _versus(rate, xz), title="held-out text; less is better")


def _rates(evaluation: Data, stage: str) -> Data:
    return evaluation["stages"].get(stage, {}).get("bits_per_byte", {})


def _versus(rate: float, xz: float) -> Markup:
    """Two bars on one scale: the model above, the compressor below."""
    most = max(rate, xz)
    bars = [tag("i", style=f"width:{100 * value / most:.1f}%", class_=name)
            for name, value in (("ours", rate), ("peer", xz))]  # fmt: skip
    return tag("span", *bars, class_="versus", role="img", aria_label=f"model {decimal(rate)}, xz {decimal(xz)}")


def _accuracy(data: Data, stage: str, when: str) -> Markup:
    label = f"Accuracy {when}"
    result = ((data["evaluation"] or {"stages": {}})["stages"].get(stage) or {}).get("tasks")
    if result is None:
        return _tile(label, MISSING, "not evaluated")
    row = result["all"]
    note = f"{interval(row['low'], row['high'])}% (95% interval), {row['count']} held-out problems"
    return _tile(label, percent(row["accuracy"], 1), note)


def _kv(data: Data) -> Markup:
    if data["model"] is None:
        return _tile("KV cache per token", MISSING, "no model yet")
    kv = data["model"]["kv_bytes_per_token"]
    note = f"{percent(kv['ours'] / kv['mha'])} of the {binary(kv['mha'])} that MHA takes"
    return _tile("KV cache per token", binary(kv["ours"]), note, title="16 bits a value")


def _time(data: Data) -> Markup:
    time = data["time"]
    if not time["stages"]:
        return _tile("Wall time", MISSING, "no finished stage")
    note = f"peak memory {binary(time['peak_memory_bytes'])}" if time["peak_memory_bytes"] else ""
    return _tile("Wall time", duration(time["seconds"]), note)
