"""Metrics as Prometheus reads them."""

from __future__ import annotations

import dataclasses
import time

import httpx
import pytest
from fake_engine import FakeEngine
from live_server import client_of, settings
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from kaiyuan.errors import ConfigError
from kaiyuan.serving.app import create_app
from kaiyuan.tokenizer import Tokenizer


def samples(http: httpx.Client) -> dict[str, float]:
    reply = http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            assert sample.labels["model_name"] == "tiny"
            parts = [sample.labels.get(name, "") for name in ("finished_reason", "handler", "status")]
            if "le" not in sample.labels:
                found[sample.name.removeprefix("kaiyuan:") + "".join(parts)] = sample.value
    return found


def test_engine_and_requests_are_measured(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(tokenizer, delay=0.01)
    engine.counts = dataclasses.replace(
        engine.counts, running=2, waiting=1, prompt_tokens=7, generation_tokens=8, preemptions=3,
        prefix_query_tokens=20, prefix_hit_tokens=10,
    )  # fmt: skip
    with client_of(engine) as http:
        for stream in (False, True):
            http.post("/v1/completions", json={"prompt": ["one", "two"], "n": 2, "stream": stream})
        found = samples(http)
    expected = {
        "num_requests_running": 2, "num_requests_waiting": 1, "kv_cache_usage_perc": 0.5, "prompt_tokens_total": 7,
        "generation_tokens_total": 8, "num_preemptions_total": 3, "prefix_cache_queries_total": 20,
        "prefix_cache_hits_total": 10, "request_success_totalstop": 3, "request_success_totallength": 1,
        "time_to_first_token_seconds_count": 4, "e2e_request_latency_seconds_count": 2,
        "request_prompt_tokens_count": 4, "request_generation_tokens_count": 8,
        "request_generation_tokens_sum": 8 * len(tokenizer.encode("Hello, world!")),
        "inter_token_latency_seconds_count": 8 * (len(tokenizer.encode("Hello, world!")) - 1),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["time_to_first_token_seconds_sum"] >= 4 * 0.009


def test_replies_are_counted_by_route_and_status(tokenizer: Tokenizer) -> None:
    with client_of(FakeEngine(tokenizer)) as http:
        for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {"prompt": ""}):
            http.post("/v1/completions", json=body)
        http.get("/v1/models/tiny")
        http.get("/v1/models/other")
        http.get(f"/{time.time()}")
        http.get("/v1/models", headers={"host": "evil.example"})
        found = samples(http)
    expected = {"/v1/completions200": 2, "/v1/completions400": 1, "/v1/models/{model:path}200": 1,
                "/v1/models/{model:path}404": 1, "404": 1, "403": 1}  # fmt: skip
    assert {name: found[f"http_requests_total{name}"] for name in expected} == expected
    assert len([name for name in found if name.startswith("http_requests_total")]) == len(expected)


def test_the_prefix_can_be_vllms(tokenizer: Tokenizer) -> None:
    with client_of(FakeEngine(tokenizer), metrics_prefix="vllm") as http:
        http.post("/v1/completions", json={"prompt": "a"})
        text = http.get("/metrics").text
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "generation_tokens_total",
             "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
             "e2e_request_latency_seconds_bucket", "request_success_total", "prefix_cache_hits_total")  # fmt: skip
    assert all(f"\nvllm:{name}{{" in text for name in names)
    assert "kaiyuan:" not in text
    with pytest.raises(ConfigError, match="prefix"):
        create_app(FakeEngine(tokenizer), settings(metrics_prefix="a-b"))


def test_apps_do_not_share_a_registry(tokenizer: Tokenizer) -> None:
    with client_of(FakeEngine(tokenizer)) as one, client_of(FakeEngine(tokenizer)) as two:
        one.post("/v1/completions", json={"prompt": "a"})
        assert samples(one)["e2e_request_latency_seconds_count"] == 1
        assert samples(two)["e2e_request_latency_seconds_count"] == 0
    assert not any(metric.name.startswith("kaiyuan") for metric in REGISTRY.collect())
