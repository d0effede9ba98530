"""What ``kaiyuan plan`` predicts for runs that others have published, and for steps measured here.

    python benchmarks/plan_published.py

Needs no GPU. Each row is our program in the published layout (or in the best one that the plan finds, where ours cannot
be laid out alike), in bfloat16 with our schedule: it says what our program would take, not what theirs is. Models are
written in our terms: DeepSeek-V3's attention by GQA of about its size, a dense layer as one expert.
"""

from __future__ import annotations

from kaiyuan.model.config import ModelConfig
from kaiyuan.scaling.hardware import KINDS, Kind
from kaiyuan.scaling.layout_memory import layout_memory
from kaiyuan.scaling.layout_time import rank_times, step_time
from kaiyuan.scaling.layouts import Candidate, find_layouts
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.traffic import Work

MEASURED = ModelConfig(
    vocab_size=32_768, hidden_size=1536, num_layers=8, num_attention_heads=24, num_kv_heads=8, head_dim=64,
    intermediate_size=4096,
)  # fmt: skip
PLAIN = {"num_shared_experts": 0, "cla_share_factor": 1, "qk_norm": False, "tie_word_embeddings": False}
LLAMA_405B = ModelConfig(
    vocab_size=128_256, hidden_size=16_384, num_layers=126, num_attention_heads=128, num_kv_heads=8, head_dim=128,
    intermediate_size=53_248, num_experts=1, **PLAIN,
)  # fmt: skip
MIXTRAL_8X22B = ModelConfig(
    vocab_size=32_768, hidden_size=6144, num_layers=56, num_attention_heads=48, num_kv_heads=8, head_dim=128,
    intermediate_size=16_384, num_experts=8, top_k=2, **PLAIN,
)  # fmt: skip
DEEPSEEK_V3 = ModelConfig(
    vocab_size=129_280, hidden_size=7168, num_layers=61, num_attention_heads=96, num_kv_heads=8, head_dim=128,
    intermediate_size=2048, num_experts=256, top_k=8, num_shared_experts=1, cla_share_factor=1, qk_norm=False,
    tie_word_embeddings=False,
)  # fmt: skip


def candidate(
    config: ModelConfig, kind: Kind, layout: Layout, rows: int, length: int, parts: int, recompute: str = "none"
) -> Candidate:
    """One layout's plan, whether it fits or not."""
    layout.check(config, rows, length, parts)
    work = Work(config, layout, rows, length, parts, recompute)
    return Candidate(work, kind, layout_memory(work), step_time(work, kind))


def show(name: str, found: Candidate, published: float, hidden: tuple[str, ...] = ()) -> None:
    """One row: MFU predicted and published, the same without the parts that theirs hides, memory, largest parts."""
    parts = sorted(found.time.parts().items(), key=lambda part: -part[1])[:4]
    text = ", ".join(f"{part} {seconds / found.time.total:.0%}" for part, seconds in parts)
    times = rank_times(found.work, found.kind)
    rest = found.mfu(max(time.total - sum(time.parts()[part] for part in hidden) for time in times))
    without = f"without {' and '.join(hidden)} {rest:.1%} ({rest / published - 1:+.0%}), " if hidden else ""
    print(f"{name}: {found.mfu():.1%} against {published:.1%} ({found.mfu() / published - 1:+.0%}), {without}"
          f"{found.time.total:.3f} s, {found.memory.total / 2**30:.1f} GiB; {text}; {found.work.layout}, "
          f"{found.work.micro_batches} micro-batches, recompute {found.work.recompute}")  # fmt: skip


def main() -> None:
    h100, h800 = KINDS["h100"], KINDS["h800"]
    show("here, 32K tokens a step", candidate(MEASURED, h100, Layout(), 8, 4096, 1), 0.417)
    show("here, 64K tokens a step", candidate(MEASURED, h100, Layout(), 16, 4096, 1), 0.457)
    show("here, experts recomputed", candidate(MEASURED, h100, Layout(), 8, 4096, 1, "experts"), 0.425 * 209 / 242)
    eight = Layout(data_shard=64, tensor=8, pipeline=16, pipeline_chunks=7)
    show("Llama 3 405B, 8,192", candidate(LLAMA_405B, h100, eight, 2048, 8192, 32), 0.43, ("bubble",))
    sixteen = Layout(data_shard=128, tensor=8, pipeline=16, pipeline_chunks=7)
    show("Llama 3 405B, 16,384", candidate(LLAMA_405B, h100, sixteen, 2048, 8192, 16), 0.41, ("bubble",))
    alike = Layout(data_shard=8, expert=8, tensor=2, pipeline=8, pipeline_chunks=7)
    show("Mixtral 8x22B, 128", candidate(MIXTRAL_8X22B, h100, alike, 256, 4096, 32), 0.493, ("bubble",))
    best = find_layouts(MIXTRAL_8X22B, h100, 128, 256, 4096, "per rank").best
    if best is not None:
        show("Mixtral 8x22B, 128, the plan's own", best, 0.493)
    count = DEEPSEEK_V3.parameters()
    hours = 2.664e6  # H800 hours of pre-training on 14.8T tokens
    published = DEEPSEEK_V3.flops(4096).training * 14.8e12 / (hours * 3600 * h800.peak)
    print(f"DeepSeek-V3 in our terms: {count.total / 1e9:.0f}B, {count.active / 1e9:.1f}B active")
    deep = Layout(data_shard=128, expert=64, pipeline=16, decide="per rank")
    found = candidate(DEEPSEEK_V3, h800, deep, 15_360, 4096, 120)
    show("DeepSeek-V3, 2,048 H800", found, published, ("bubble", "network"))
    print(f"  its 14.8T tokens: {found.days(14.8e12) * 24 * 2048 / 1e6:.2f}M H800 hours against 2.664M (fp8)")


if __name__ == "__main__":
    main()
