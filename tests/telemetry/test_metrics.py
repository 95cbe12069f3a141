"""`/metrics` of a running server: names against the docs, values against what was sent."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import httpx
import pytest
from occupied_server import ask, completion, stream
from polling import wait_until
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from server_process import Server

PREFIX = "kserve_llamacpp_"
END_OF_GENERATION = 2  # <|im_end|> of the demo model
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"\| `(kserve_llamacpp_\w+)` \| (\w+) \| (.+?) \| .+ \|")


class Scrape:
    """The values of all metrics at one moment."""

    def __init__(self, server: Server) -> None:
        self.families = families(httpx.get(f"{server.http_url}/metrics").text)
        self._values = {
            (
                sample.name,
                *sorted(value for name, value in sample.labels.items() if name != "model_name"),
            ): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, *labels: str) -> float:
        return self._values[(PREFIX + name, *sorted(labels))]


def families(text: str) -> dict[str, Metric]:
    """Our metrics by the name that the docs use."""
    found = {family.name: family for family in parse_text(text) if family.name.startswith(PREFIX)}
    return {name + ("_total" if family.type == "counter" else ""): family for name, family in found.items()}


def test_names_types_and_labels_are_the_documented_ones(narrow_server: Server) -> None:
    documented = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(PAGE.read_text())
    }
    live = {
        name: (family.type, frozenset(label for s in family.samples for label in s.labels if label != "le"))
        for name, family in Scrape(narrow_server).families.items()
    }
    assert live == documented


def test_every_series_has_the_model_name(narrow_server: Server) -> None:
    samples = [s for family in Scrape(narrow_server).families.values() for s in family.samples]
    assert samples
    assert {sample.labels.get("model_name") for sample in samples} == {narrow_server.model_name}


def test_requests_are_counted_exactly(narrow_server: Server) -> None:
    prompt = random.Random().sample(range(1000, 40000), 40)
    before, started = Scrape(narrow_server), time.monotonic()
    first = httpx.post(
        f"{narrow_server.http_url}/v1/completions",
        json=completion(narrow_server, 5, prompt=prompt),
        timeout=60,
    ).json()
    # The same prompt again, with the end of generation as the only token that can be sampled.
    ending = completion(
        narrow_server, 5, prompt=prompt, ignore_eos=False, logit_bias={END_OF_GENERATION: 100}
    )
    second = httpx.post(f"{narrow_server.http_url}/v1/completions", json=ending, timeout=60).json()
    after, took = Scrape(narrow_server), time.monotonic() - started

    assert [r["choices"][0]["finish_reason"] for r in (first, second)] == ["length", "stop"]
    assert [r["usage"]["completion_tokens"] for r in (first, second)] == [5, 0]

    def grown(name: str, *labels: str) -> float:
        return after(name, *labels) - before(name, *labels)

    assert grown("prompt_tokens_total") == 80
    assert grown("generation_tokens_total") == 6  # five, and the end-of-generation token
    assert grown("prefix_cache_queries_total") == 80
    assert grown("prefix_cache_hits_total") == second["usage"]["prompt_tokens_details"]["cached_tokens"] == 39
    assert grown("num_preemptions_total") == 0
    reasons = {r: grown("request_success_total", r) for r in ("stop", "length", "abort", "error")}
    assert reasons == {"stop": 1, "length": 1, "abort": 0, "error": 0}
    assert grown("time_to_first_token_seconds_count") == 2
    assert grown("inter_token_latency_seconds_count") == 4
    parts = [f"request_{part}_time_seconds" for part in ("queue", "prefill", "decode")]
    for histogram in ("e2e_request_latency_seconds", *parts):
        assert grown(f"{histogram}_count") == 2
        assert grown(f"{histogram}_bucket", "+Inf") == 2
    total = grown("e2e_request_latency_seconds_sum")
    assert 0 < sum(grown(f"{part}_sum") for part in parts) <= total < took
    assert grown("request_decode_time_seconds_sum") == pytest.approx(grown("inter_token_latency_seconds_sum"))
    assert 0 < grown("engine_decode_seconds_total") < grown("engine_step_seconds_total") < took
    assert grown("engine_steps_total") == 6


def unanswered(scrape: Scrape, le: str) -> float:
    """Requests without a token that have waited for at most so long."""
    samples = scrape.families[PREFIX + "num_requests_unanswered"].samples
    return sum(sample.value for sample in samples if sample.labels["le"] == le)


def test_gauges_follow_the_load_and_aborted_requests_have_no_times(narrow_server: Server) -> None:
    before = Scrape(narrow_server)
    assert before("num_requests_running") == before("num_requests_waiting") == 0
    with stream(narrow_server):
        wait_until(lambda: Scrape(narrow_server)("num_requests_running") == 1)
        assert Scrape(narrow_server)("num_requests_waiting") == 0
        with stream(narrow_server):
            wait_until(lambda: Scrape(narrow_server)("num_requests_waiting") == 1)
            busy = Scrape(narrow_server)
            assert busy("num_requests_running") == 1
            assert unanswered(busy, "+Inf") >= 1
            wait_until(lambda: unanswered(Scrape(narrow_server), "0.1") == 0)
            # A sequence runs from its admission on, but has cells only after its first step.
            wait_until(lambda: 0 < Scrape(narrow_server)("kv_cache_usage_perc") < 1)
            wait_until(lambda: Scrape(narrow_server)("kv_cache_usage_perc") > busy("kv_cache_usage_perc"))
    wait_until(lambda: Scrape(narrow_server)("num_requests_running") == 0)
    after = Scrape(narrow_server)
    assert after("num_requests_waiting") == 0
    assert after("kv_cache_usage_perc") == 0  # retained prefixes don't count
    assert after("request_success_total", "abort") - before("request_success_total", "abort") == 2
    assert after("e2e_request_latency_seconds_count") == before("e2e_request_latency_seconds_count")
    assert after("time_to_first_token_seconds_count") - before("time_to_first_token_seconds_count") == 1
    given_up = "ended_unanswered_wait_seconds_count"
    assert after(given_up, "abort") - before(given_up, "abort") == 1


def test_refused_requests_are_counted_by_reason(narrow_server: Server) -> None:
    before = Scrape(narrow_server)
    with stream(narrow_server), stream(narrow_server):
        assert ask(narrow_server, n=2).status_code == 429
    too_long = ask(narrow_server, prompt=[1000] * (narrow_server.context_tokens + 1))
    assert too_long.status_code == 400
    after = Scrape(narrow_server)
    reasons = ("queue_full", "invalid", "shutting_down")
    grown = [after("request_rejected_total", r) - before("request_rejected_total", r) for r in reasons]
    assert grown == [2, 1, 0]


def test_info_and_start(narrow_server: Server) -> None:
    scrape = Scrape(narrow_server)
    (model,) = scrape.families[PREFIX + "model_info"].samples
    assert (model.value, model.labels["quantisation"]) == (1, "Q4_1")
    assert model.labels["context_tokens"] == str(narrow_server.context_tokens)
    (build,) = scrape.families[PREFIX + "build_info"].samples
    assert re.fullmatch(r"\d+\.\d+\.\d+", build.labels["llama_cpp_python"])
    parts = {s.labels["part"]: s.value for s in scrape.families[PREFIX + "startup_seconds"].samples}
    assert set(parts) == {"python", "prepare", "imports", "load", "warm_up", "total"}
    loaded = parts["load"] + parts["warm_up"]
    assert all(seconds > 0 for seconds in parts.values())
    assert parts["python"] + parts["prepare"] + max(parts["imports"], loaded) <= parts["total"] < 60
    assert scrape("model_load_seconds") == pytest.approx(loaded)


def test_the_format_is_the_one_asked_for(narrow_server: Server) -> None:
    url = f"{narrow_server.http_url}/metrics"
    plain = httpx.get(url)
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    asked = httpx.get(url, headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {f.name for f in parse_openmetrics(asked.text)}
    assert {f.name for f in families(plain.text).values()} <= names
