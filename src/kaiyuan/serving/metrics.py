"""Prometheus metrics under vLLM's names, with a prefix of ours or theirs, in a registry of their own for each app."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from kaiyuan.errors import ConfigError, KaiyuanError
from kaiyuan.inference.async_engine import EngineStats
from kaiyuan.inference.outputs import Piece
from kaiyuan.serving.interface import ServedEngine

if TYPE_CHECKING:
    from prometheus_client import Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)

_HISTOGRAMS = {
    "time_to_first_token_seconds": ("Time from the request's arrival to its first token.", _SECONDS),
    "inter_token_latency_seconds": ("Time between tokens of a completion.", _SECONDS),
    "e2e_request_latency_seconds": ("Time from the request's arrival to its end.", _SECONDS),
    "request_prompt_tokens": ("Tokens of prompts.", _TOKENS),
    "request_generation_tokens": ("Tokens of finished completions.", _TOKENS),
}


def _share(stats: EngineStats) -> float:
    return float(stats.kv_blocks_used / stats.kv_blocks_total) if stats.kv_blocks_total else 0.0


_GAUGES: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "num_requests_running": ("Requests that the engine computes.", lambda s: s.running),
    "num_requests_waiting": ("Requests in the queue.", lambda s: s.waiting),
    "kv_cache_usage_perc": ("Share of the KV cache in use, 0 to 1.", _share),
}
_COUNTERS: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "prompt_tokens": ("Tokens of prompts.", lambda s: s.prompt_tokens),
    "generation_tokens": ("Tokens generated.", lambda s: s.generation_tokens),
    "num_preemptions": ("Completions put back to the queue for want of memory.", lambda s: s.preemptions),
    "prefix_cache_queries": ("Tokens looked up in the prefix cache.", lambda s: s.prefix_query_tokens),
    "prefix_cache_hits": ("Tokens found in the prefix cache.", lambda s: s.prefix_hit_tokens),
}


class Metrics:
    """What the server measures, and the engine's own counts, read when somebody asks."""

    def __init__(self, engine: ServedEngine, model_name: str, prefix: str = "kaiyuan") -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ImportError:
            raise KaiyuanError("the server needs more packages: pip install 'kaiyuan[serve]'") from None
        if not re.fullmatch(r"[A-Za-z_]\w*", prefix, re.ASCII):
            raise ConfigError(f"the prefix of metrics {prefix!r} is no name: letters, digits and _ only")
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_EngineCounts(engine, model_name, prefix))
        labels = ["model_name", "handler", "status"]
        text = "Replies by route and HTTP status."
        self._replies = Counter(f"{prefix}:http_requests", text, labels, registry=self.registry)
        self._model_name = model_name
        self.histograms: dict[str, Histogram] = {
            name: Histogram(f"{prefix}:{name}", text, ["model_name"], buckets=buckets, registry=self.registry).labels(
                model_name=model_name
            )
            for name, (text, buckets) in _HISTOGRAMS.items()
        }

    def replied(self, handler: str, status: int) -> None:
        """Count a reply of the route ``handler``, empty if there is no such route."""
        self._replies.labels(self._model_name, handler, str(status)).inc()

    def watch(self, prompt_tokens: int, start: float) -> JobWatch:
        """Measures a job that began at ``start`` on the monotonic clock."""
        self.histograms["request_prompt_tokens"].observe(prompt_tokens)
        return JobWatch(self.histograms, start)

    def finished(self, seconds: float) -> None:
        self.histograms["e2e_request_latency_seconds"].observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class JobWatch:
    """Latencies and lengths of one job's completions."""

    def __init__(self, histograms: dict[str, Histogram], start: float) -> None:
        self._histograms, self._start = histograms, start
        self._last: dict[int, float] = {}
        self._made: dict[int, int] = {}

    def see(self, piece: Piece) -> None:
        now = time.monotonic()
        if piece.tokens:
            if not self._last:
                self._histograms["time_to_first_token_seconds"].observe(now - self._start)
            elif piece.index in self._last:
                gap = (now - self._last[piece.index]) / len(piece.tokens)
                for _ in piece.tokens:
                    self._histograms["inter_token_latency_seconds"].observe(gap)
            self._last[piece.index] = now
            self._made[piece.index] = self._made.get(piece.index, 0) + len(piece.tokens)
        if piece.finish_reason is not None:
            self._histograms["request_generation_tokens"].observe(self._made.get(piece.index, 0))


class _EngineCounts:
    """A collector of ``engine.stats()``."""

    def __init__(self, engine: ServedEngine, model_name: str, prefix: str) -> None:
        self._engine, self._labels, self._prefix = engine, {"model_name": model_name}, prefix

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats, names, values = self._engine.stats(), list(self._labels), list(self._labels.values())
        for name, (text, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{self._prefix}:{name}", text, labels=names)
            gauge.add_metric(values, read(stats))
            yield gauge
        for name, (text, read) in _COUNTERS.items():
            counter = CounterMetricFamily(f"{self._prefix}:{name}", text, labels=names)
            counter.add_metric(values, read(stats))
            yield counter
        finished = CounterMetricFamily(
            f"{self._prefix}:request_success", "Completions by how they ended.", labels=[*names, "finished_reason"]
        )
        for reason, count in stats.requests_finished.items():
            finished.add_metric([*values, reason], count)
        yield finished
