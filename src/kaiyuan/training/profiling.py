"""Where a training step's time goes: a trace that Perfetto opens, and a table by kind of kernel, or of operation on a
CPU.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from kaiyuan.files import write_text
from kaiyuan.progress import say

KINDS = (
    ("attention", r"flash|fmha|sdpa|cudnn"),
    ("grouped products", r"GroupProblemShape|grouped"),
    ("products", r"gemm|nvjet|cutlass|xmma|splitK|aten::(mm|bmm|addmm|baddbmm)$"),
    ("codes in fp8", r"_fp8_"),
    ("optimiser", r"_adamw_(update|coded)|_square_sum|multi_tensor_apply|lpnorm|FusedAdam|_fused_adamw_"),
    ("SwiGLU", r"_swiglu_|silu"),
    ("norms and RoPE", r"_norm_|rms_norm|RMSNorm|vector_norm|_RopeNorm"),
    ("rows to experts and back", r"_gather_rows|_combine_rows|indexFunc|vectorized_gather|"
                                 r"aten::(_?index(_add|_copy|_select|_put_impl)?_?|gather)$"),
    ("cross-entropy", r"_cross_entropy_rows|softmax|CrossEntropy"),
    ("routing", r"_(route|dispatch|router_stats)_"),
    ("sorting", r"[sS]ort|Radix|scan_by|DeviceScan|searchsorted|histogram|Histogram"),
    ("memory copies", r"Memcpy|Memset|copy_kernel|direct_copy|aten::copy_"),
)  # fmt: skip
"""Kinds of kernels and of a CPU's operations, each with a pattern of their names; the first that matches counts."""


def kind_of(kernel: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel)), "other elementwise")


def kernel_times(profiler: torch.profiler.profile) -> dict[str, float]:
    """Milliseconds of device time by kernel name, over all that was profiled, longest first; of a CPU's own time by
    operation where no kernel ran on a device.
    """
    times: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            times[event.name] += event.device_time_total / 1000
    if not times:
        averages = profiler.key_averages()
        times = {event.key: event.self_cpu_time_total / 1000 for event in averages if "ProfilerStep" not in event.key}
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def idle_before(profiler: torch.profiler.profile, least_us: float = 3.0) -> dict[str, float]:
    """Milliseconds in which no kernel ran, by the kernel that came after, over all that was profiled."""
    kernels = [event for event in profiler.events() or ()
               if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation]  # fmt: skip
    kernels.sort(key=lambda event: event.time_range.start)
    idle: dict[str, float] = defaultdict(float)
    end = kernels[0].time_range.start if kernels else 0
    for event in kernels:
        if event.time_range.start - end > least_us:
            idle[event.name] += (event.time_range.start - end) / 1000
        end = max(end, event.time_range.end)
    return dict(sorted(idle.items(), key=lambda item: -item[1]))


def _short(kernel: str) -> str:
    """What tells a kernel of PyTorch's from others: the operation inside the launcher's name."""
    inner = re.search(r"(?:lambda|Functor|functor)[^(]*|native::(?!\w*elementwise)\w+", kernel)
    return (inner.group() if inner and "elementwise" in kernel else kernel)[:48]


def table(times: dict[str, float], steps: int, step_ms: float) -> str:
    """``kernel_times`` as text: milliseconds and shares of one step by kind, with each kind's longest kernels."""
    kinds: dict[str, float] = defaultdict(float)
    longest: dict[str, list[str]] = defaultdict(list)
    for name, time in times.items():
        kind = kind_of(name)
        kinds[kind] += time / steps
        if len(longest[kind]) < 4:
            longest[kind].append(f"{time / steps:.1f} {_short(name)}")
    busy = sum(kinds.values())
    lines = [f"{'kind of kernel':<28}{'ms a step':>10}{'share':>8}"]
    for kind, time in sorted(kinds.items(), key=lambda item: -item[1]):
        lines.append(f"{kind:<28}{time:10.2f}{time / step_ms:8.1%}   {'; '.join(longest[kind])}")
    lines.append(f"{'no kernel (or overlapped)':<28}{step_ms - busy:10.2f}{(step_ms - busy) / step_ms:8.1%}")
    return "\n".join(lines)


class StepProfiler:
    """Profiles ``steps`` steps once ``wait`` are over, into ``folder``; does nothing without a folder.

    Call it as a context manager around the run and ``step()`` after every step.
    """

    def __init__(self, folder: Path | None, wait: int = 4, steps: int = 2) -> None:
        self.folder, self.steps = folder, steps
        self.profiler: Any = None
        if folder is not None:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            schedule = torch.profiler.schedule(wait=wait, warmup=1, active=steps, repeat=1)
            self.profiler = torch.profiler.profile(
                activities=activities, schedule=schedule, on_trace_ready=self._write, acc_events=True
            )

    def _write(self, profiler: torch.profiler.profile) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "trace.json.gz"
        profiler.export_chrome_trace(str(path))
        if times := kernel_times(profiler):
            write_text(self.folder / "kernels.txt", table(times, self.steps, sum(times.values()) / self.steps) + "\n")
        at = str(path).replace(".partial/", "/")  # where it is when the stage is done
        say(f"profile: {at} (open it in https://ui.perfetto.dev)")

    def step(self) -> None:
        if self.profiler is not None:
            self.profiler.step()

    def __enter__(self) -> Self:
        if self.profiler is not None:
            self.profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.profiler is not None:
            self.profiler.__exit__(kind, error, trace)
