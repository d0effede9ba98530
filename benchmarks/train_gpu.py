"""Training on one GPU: checks, then tokens/s, MFU and memory of our trainer and of transformers' HunYuanMoEV1.

    python benchmarks/train_gpu.py                       # everything, at the sizes of docs/lab-notes.md
    python benchmarks/train_gpu.py --only check parts    # no training: gradients, and what single parts reach
    python benchmarks/train_gpu.py --only recycle --micro-batches 4 --batch 32
    python benchmarks/train_gpu.py --only dropless --preset 100m --batch 1 --length 262144 --recompute blocks

``check`` compares loss and gradients with the float32 reference on the CPU; ``parts`` measures products, attention and
memory traffic alone; ``dropless`` and ``recycle`` are steps of the real trainer (float32 masters, clipping, guard,
metrics), with a breakdown by kernel; ``peer`` is the model of transformers in pure bfloat16 with fused AdamW. MFU
counts every product once, attention as causal, against 989 TFLOP/s.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from kaiyuan import ModelConfig
from kaiyuan.model.loss import cross_entropy_sum
from kaiyuan.model.routing import RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.scaling.memory import training_memory
from kaiyuan.scaling.step_memory import over_the_state
from kaiyuan.training.allocator import grow_segments
from kaiyuan.training.batch import Batch
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.profiling import idle_before, kernel_times, table
from kaiyuan.training.trainer import Trainer, TrainerSettings

PEAK = 989e12
PARTS = ("check", "parts", "dropless", "recycle", "peer")


def model_config(options: argparse.Namespace) -> ModelConfig:
    if options.preset:
        return ModelConfig.preset(options.preset, vocab_size=options.vocabulary, max_position_embeddings=options.length)
    return ModelConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_layers=options.layers,
        num_attention_heads=options.hidden // 64, num_kv_heads=max(1, options.hidden // 192), head_dim=64,
        intermediate_size=options.width, rope_alpha=1000.0, max_position_embeddings=options.length,
    )  # fmt: skip


class RandomTokens:
    """Random batches of the options' size."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def batch(self, step: int, model: Transformer) -> Batch:
        shape = (self.options.batch, self.options.length + 1)
        ids = torch.randint(self.options.vocabulary, shape, generator=torch.Generator().manual_seed(step))
        return Batch(ids[:, :-1], ids[:, 1:], torch.ones(self.options.batch, self.options.length))


class Enough(Exception):
    pass


def train(options: argparse.Namespace, mode: str) -> None:
    """Steps of the trainer as a run makes them; prints rate, MFU, memory, and the kernels of two more steps."""
    config = model_config(options)
    with torch.device("cuda"):
        model = Transformer(config, torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if name.endswith("norm.weight") else parameter.normal_(0, 0.02)
    settings = TrainerSettings(
        steps=10**6, lr=1e-4, warmup=100, routing=RoutingPolicy(mode=mode), checkpoint_every=10**6,  # type: ignore[arg-type]
        micro_batches=options.micro_batches, recompute=options.recompute, moments=options.moments,
        fp8=options.fp8,
    )  # fmt: skip
    times: list[float] = []
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def on_step(step: int) -> None:
        times.append(time.perf_counter())  # the trainer has just read the loss: it waits for the device once a step
        if step == options.warmup + options.steps:
            torch.cuda.synchronize()
            profiler.__enter__()
        if step == options.warmup + options.steps + 2:
            torch.cuda.synchronize()
            profiler.__exit__(None, None, None)
            raise Enough

    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer("", model, RandomTokens(options), language_model_loss, settings, Path(folder), on_step)
        with contextlib.suppress(Enough):
            trainer.fit()
    steps = [after - before for before, after in itertools.pairwise(times)]
    seconds = statistics.median(steps[options.warmup : options.warmup + options.steps])
    report(f"kaiyuan, {mode}" + (", fp8" if options.fp8 else ""), config, options, seconds)
    predicted = training_memory(config, 1, options.batch * options.length // options.micro_batches)
    predicted_bytes = predicted.total_recomputing if options.recompute == "blocks" else predicted.total
    if options.recompute == "experts":
        predicted_bytes = predicted.state + over_the_state(config, options.batch * options.length, "experts")
    if options.fp8:  # codes of the weights of feed-forward layers and projections, twice
        coded = (".experts.", ".shared.", "_proj.")
        predicted_bytes += sum(2 * p.numel() for n, p in model.named_parameters() if any(part in n for part in coded))
    measured = torch.cuda.max_memory_allocated()
    print(f"memory: predicted {predicted_bytes / 2**30:.2f} GiB, measured {measured / 2**30:.2f} "
          f"({predicted_bytes / measured - 1:+.1%})")  # fmt: skip
    if options.breakdown:
        print(table(kernel_times(profiler), 2, seconds * 1000), flush=True)
        idle = idle_before(profiler)
        print(f"idle while profiled {sum(idle.values()) / 2:.1f} ms a step; before: " +
              "; ".join(f"{time / 2:.2f} {name[:40]}" for name, time in list(idle.items())[:8]))  # fmt: skip


def report(name: str, config: ModelConfig, options: argparse.Namespace, seconds: float) -> None:
    rate = options.batch * options.length / seconds
    mfu = rate * config.flops(options.length).training / PEAK
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"{name:<34}{1000 * seconds:8.1f} ms{rate:10,.0f} tokens/s   MFU {mfu:6.1%}   peak {memory:5.1f} GiB",
          flush=True)  # fmt: skip


def peer(options: argparse.Namespace) -> None:
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    ours = model_config(options)
    config = HunYuanMoEV1Config(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=ours.num_attention_heads, num_key_value_heads=ours.num_kv_heads, head_dim=64,
        intermediate_size=options.width, num_experts=16, moe_topk=1, tie_word_embeddings=True,
        max_position_embeddings=options.length,
        rope_parameters={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0},
    )  # fmt: skip
    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        model = HunYuanMoEV1ForCausalLM._from_config(
            config, experts_implementation="grouped_mm", attn_implementation="sdpa", dtype=torch.bfloat16
        )  # fmt: skip
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = RandomTokens(options).batch(0, None).ids_BT.cuda()  # type: ignore[arg-type]
    times = []
    for _ in range(options.warmup + min(options.steps, 5)):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    # its layers have keys and values of their own (no CLA), a little more to compute
    full = ours.replace(cla_share_factor=1)
    report("transformers, pure bf16", full, options, statistics.median(times[options.warmup :]))


def check() -> None:
    """Loss and gradients of the GPU's path against float32 on the CPU; in bfloat16, where near ties of the router fall
    otherwise, the plain form in bfloat16 on the CPU shows what rounding alone does.
    """
    config = ModelConfig(vocab_size=512, hidden_size=256, num_layers=4, num_attention_heads=4, num_kv_heads=2,
                         head_dim=64, intermediate_size=384, rope_alpha=1000.0)  # fmt: skip
    ids = torch.randint(512, (4, 257), generator=torch.Generator().manual_seed(0))
    starts = torch.rand(4, 256, generator=torch.Generator().manual_seed(1)) < 0.02
    cases = [
        ("dropless", RoutingPolicy(mode="dropless"), None, False),
        ("drop", RoutingPolicy(mode="drop", capacity_factor=1.0), None, False),
        ("drop, documents", RoutingPolicy(mode="drop", capacity_factor=1.0), starts.cumsum(1), False),
        ("float32 on the GPU", RoutingPolicy(mode="drop", capacity_factor=1.0), starts.cumsum(1), True),
    ]
    wrong = []
    for name, policy, documents, exact in cases:
        dtype = torch.float32 if exact else torch.bfloat16
        wide = gradients(config, policy, ids, documents, "cpu", torch.float32)
        plain, ours = (gradients(config, policy, ids, documents, device, dtype) for device in ("cpu", "cuda"))
        errors, of_plain = ({key: float((found[key] - value).norm() / value.norm().clamp(min=1e-9))
                             for key, value in wide.items()} for found in (ours, plain))  # fmt: skip
        worst = max(errors, key=errors.__getitem__)
        print(f"check {name:<20} loss {errors['loss']:.1e}, median gradient {statistics.median(errors.values()):.1e}, "
              f"worst {errors[worst]:.1e} ({worst}); plain {max(of_plain.values()):.1e}", flush=True)  # fmt: skip
        wrong += [(name, key, error, of_plain[key]) for key, error in errors.items()
                  if error >= (2e-3 if exact else 2 * of_plain[key] + 0.01)]  # fmt: skip
    assert not wrong, wrong


def gradients(
    config: ModelConfig, policy: RoutingPolicy, ids: torch.Tensor, documents: torch.Tensor | None, device: str,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:  # fmt: skip
    from kaiyuan.model.linear import gradient
    from kaiyuan.training.optimizer import adamw

    model = Transformer(config, dtype).train()
    model.init_weights()
    model.to(device)
    adamw(model, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8, expert_ratio=1.0)
    model.mode.routing = policy
    ids = ids.to(device)
    if device == "cuda" and documents is None and dtype == torch.bfloat16:
        torch.cuda.set_sync_debug_mode("error")  # nothing in a step may wait for the device
    features = model.features(ids[:, :-1], documents_BT=None if documents is None else documents.to(device))
    loss = cross_entropy_sum(features.x_BTD, model.head_weight, ids[:, 1:]) / ids[:, 1:].numel()
    balance = torch.stack([stats.balance_loss for stats in features.router]).mean()
    (loss + 0.01 * balance).backward()
    torch.cuda.set_sync_debug_mode("default")
    found = {"loss": loss.detach().float().cpu()}
    for name, parameter in model.named_parameters():
        grad = gradient(parameter)
        assert grad is not None, name
        found[name] = grad.float().cpu()
    return found


def timed(function: Callable[[], object]) -> float:
    """Milliseconds, median."""
    from triton.testing import do_bench

    return float(do_bench(function, warmup=20, rep=60, return_mode="median"))


def parts(options: argparse.Namespace) -> None:
    """What the machine gives: products at the step's shapes, attention by backend, kernels against memory's speed."""
    tokens, hidden, width = options.batch * options.length, options.hidden, options.width

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    x, gate_up, down = matrix(tokens, hidden), matrix(2 * width, hidden) / 40, matrix(hidden, width) / 64
    h, a = matrix(tokens, 2 * width), matrix(tokens, width)
    products = {
        "up": lambda: x @ gate_up.t(), "down": lambda: a @ down.t(), "gradient of x": lambda: h @ gate_up,
        "gradient of weight": lambda: h.t() @ x, "query": lambda: x @ gate_up[:hidden].t(),
    }  # fmt: skip
    flops = {"query": 2 * tokens * hidden**2, "down": 2 * tokens * hidden * width}
    for name, function in products.items():
        ms = timed(function)
        print(f"product {name:<20}{ms:8.3f} ms {flops.get(name, 4 * tokens * hidden * width) / ms / 1e9:6.0f} TFLOP/s")
    experts = matrix(16, 2 * width, hidden) / 40
    share = torch.randn(16, generator=torch.Generator().manual_seed(0)).mul(0.3).softmax(0)
    ends = (share.cumsum(0) * tokens).round().int().clamp(max=tokens).cuda()
    ends[-1] = tokens
    grouped = {
        "up": lambda: F.grouped_mm(x, experts.transpose(1, 2), offs=ends),
        "gradient of x": lambda: F.grouped_mm(h, experts, offs=ends),
        "gradient of weight": lambda: F.grouped_mm(h.t(), x, offs=ends),
    }
    for name, function in grouped.items():
        ms = timed(function)
        print(f"grouped {name:<20}{ms:8.3f} ms {4 * tokens * hidden * width / ms / 1e9:6.0f} TFLOP/s")
    attention_parts(options, matrix)
    kernel_parts(x, h, a)


def attention_parts(options: argparse.Namespace, matrix: Callable[..., torch.Tensor]) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    config = model_config(options)
    heads, kv_heads = config.num_attention_heads, config.num_kv_heads
    q = matrix(options.batch, options.length, heads, 64).transpose(1, 2).requires_grad_()
    k, v = (matrix(options.batch, options.length, kv_heads, 64).transpose(1, 2).requires_grad_() for _ in range(2))
    flops = 2 * options.batch * options.length**2 * heads * 64
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                grad = torch.randn_like(out)
                ahead = timed(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
                back = timed(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))  # noqa: B023
            print(f"attention {name:<18}{ahead:8.3f} ms {flops / ahead / 1e9:6.0f} TFLOP/s, backwards {back:8.3f} ms "
                  f"{2.5 * flops / back / 1e9:6.0f} TFLOP/s", flush=True)  # fmt: skip
        except RuntimeError as error:
            print(f"attention {name}: {str(error)[:200]}")


def kernel_parts(x: torch.Tensor, h: torch.Tensor, a: torch.Tensor) -> None:
    from kaiyuan.model.kernels import adamw as adamw_kernel
    from kaiyuan.model.kernels import norm, rows, swiglu

    gain = torch.ones(x.shape[1], device="cuda")
    kept = torch.tensor([len(x)], dtype=torch.int32, device="cuda")
    order = torch.randperm(len(x), device="cuda")
    state = [torch.randn(2**26, device="cuda").abs() for _ in range(3)]
    grad, copy, one = torch.randn(2**26, device="cuda").bfloat16(), state[0].bfloat16(), torch.ones((), device="cuda")
    weight = torch.rand(len(x), device="cuda")
    functions = {
        "copy": (lambda: x.clone(), 2 * x.nbytes),
        "norm": (lambda: norm.residual_norm(x, x, gain, 1e-5), 4 * x.nbytes),
        "gather": (lambda: rows.gather(x, order, kept), 2 * x.nbytes),
        "combine": (lambda: rows.combine(x, x, order, kept, 1), 3 * x.nbytes),
        "SwiGLU": (lambda: swiglu.forward(h, weight), h.nbytes + a.nbytes),
        "its gradient": (lambda: swiglu.backward(a, h, weight, kept), 2 * h.nbytes + a.nbytes),
        "AdamW": (lambda: adamw_kernel.update(state[0], grad, state[1], state[2], copy, one, step=3, lr=1e-4,
                                              betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1), 28 * 2**26),
    }  # fmt: skip
    for name, (function, moved) in functions.items():
        ms = timed(function)
        print(f"kernel {name:<16}{ms:8.3f} ms {moved / ms / 1e6:6.0f} GB/s", flush=True)


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 8, "length": 4096, "hidden": 1536, "layers": 8, "width": 4096, "vocabulary": 32768, "steps": 10,
             "warmup": 3, "micro-batches": 1}  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--preset", default="", help="a model of the ladder in place of the sizes")
    parser.add_argument("--recompute", choices=("none", "experts", "blocks"), default="none")
    parser.add_argument("--moments", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--fp8", action="store_true", help="feed-forward layers and projections multiply in fp8")
    parser.add_argument("--no-breakdown", dest="breakdown", action="store_false")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    grow_segments()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.batch} x {options.length} tokens, "
          f"{options.layers} layers of {options.hidden}, 16+1 experts of {options.width}")  # fmt: skip
    for name in options.only:
        if name == "check":
            check()
        elif name == "parts":
            parts(options)
        elif name == "peer":
            peer(options)
        else:
            train(options, name)
        free()


if __name__ == "__main__":
    main()
