"""What an operator does to the application while it is used, on a real Ray cluster."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from chat_load import BODY, Answer, answers_during, ask, prompt_tokens
from deployed_application import Deployed

LONG = {**BODY, "max_tokens": 1500, "stream": True}

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def pids(deployed: Deployed, deployment: str = "engine") -> set[int]:
    processes = deployed.cluster.replicas(deployment)
    return {process.pid for process in processes if process.status() != psutil.STATUS_ZOMBIE}


def ends_with_an_error(deployed: Deployed, deployment: str) -> bool:
    """Whether a stream does whose replica of the deployment is killed."""
    with httpx.stream("POST", f"{deployed.url}/v1/chat/completions", json=LONG, timeout=120) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        for process in deployed.cluster.replicas(deployment):
            process.kill()
        *_, last = (line for line in lines if line)
    return '"code":"unavailable"' in last


def statuses(answers: list[Answer]) -> set[int]:
    return {answer.status for answer in answers}


def test_a_model_switch_in_place_loses_no_request(deployed: Deployed) -> None:
    deployed.deploy(replicas=2)
    before, replicas = prompt_tokens(deployed.url), pids(deployed)
    answers = answers_during(deployed.url, lambda: deployed.deploy(replicas=2, model=deployed.second))
    assert statuses(answers) == {200}
    seen = list(dict.fromkeys(answer.prompt_tokens for answer in answers))
    assert len(seen) == 2
    assert seen[0] == before
    after = {prompt_tokens(deployed.url) for _ in range(4)}
    assert after == {seen[1]}
    assert pids(deployed) == replicas
    assert len(replicas) == 2


def test_a_killed_replica_costs_only_what_it_ran(deployed: Deployed) -> None:
    deployed.deploy(replicas=2)
    prompt_tokens(deployed.url)
    victim = deployed.cluster.replicas("engine")[0]
    answers = answers_during(deployed.url, victim.kill, clients=6, max_tokens=64)
    lost = [answer for answer in answers if answer.status != 200]
    assert statuses(answers) <= {200, 503}
    assert 0 < len(lost) <= 6
    for answer in lost:
        assert "the replica that ran this request has ended; send the request again" in answer.text
        assert answer.retry_after
    wait_for_replicas(deployed, 2)
    assert ask(deployed.url).status == 200


def test_a_stream_on_a_killed_replica_ends_with_an_error(deployed: Deployed) -> None:
    deployed.deploy(replicas=1)
    assert ends_with_an_error(deployed, "engine")
    # The next request waits for the new replica instead of failing.
    assert ask(deployed.url).status == 200


@pytest.mark.parametrize("content", [None, b"GGUF" + bytes(100)], ids=["missing", "broken"])
def test_a_model_that_cannot_be_used_leaves_the_old_one(
    deployed: Deployed, tmp_path: Path, content: bytes | None
) -> None:
    bad = tmp_path / "bad.gguf"
    if content is not None:
        bad.write_bytes(content)
    deployed.deploy(replicas=2)
    before, replicas = prompt_tokens(deployed.url), pids(deployed)
    answers = answers_during(deployed.url, lambda: deployed.deploy(replicas=2, model=bad))
    assert statuses(answers) == {200}
    assert {answer.prompt_tokens for answer in answers} == {before}
    assert pids(deployed) == replicas
    lines = [line for line in deployed.cluster.log_of("engine").splitlines() if str(bad) in line]
    assert len(lines) == 2
    assert all("ERROR" in line and "the old one goes on" in line for line in lines)
    deployed.deploy(replicas=2, model=deployed.second)
    assert prompt_tokens(deployed.url) != before
    assert pids(deployed) == replicas


def test_a_killed_gateway_costs_only_what_it_held(deployed: Deployed) -> None:
    deployed.deploy(replicas=1)
    prompt_tokens(deployed.url)
    (victim,) = deployed.cluster.replicas("gateway")
    answers = answers_during(deployed.url, victim.kill, clients=6, max_tokens=64)
    lost = [answer for answer in answers if answer.status != 200]
    assert statuses(answers) == {200, 503}
    assert len(lost) <= 6
    for answer in lost:
        assert "the gateway that held this request has ended; send the request again" in answer.text
        assert answer.retry_after


def test_a_stream_through_a_killed_gateway_ends_with_an_error(deployed: Deployed) -> None:
    deployed.deploy(replicas=1)
    assert ends_with_an_error(deployed, "gateway")
    assert ask(deployed.url).status == 200


def test_a_killed_proxy_comes_back(deployed: Deployed) -> None:
    """Its connections end with it."""
    deployed.deploy(replicas=1)
    replicas = pids(deployed), pids(deployed, "gateway")
    with httpx.stream("POST", f"{deployed.url}/v1/chat/completions", json=LONG, timeout=120) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        deployed.cluster.proxy().kill()
        with pytest.raises(httpx.TransportError):
            list(lines)
    deadline = time.monotonic() + 120
    while True:
        try:
            assert ask(deployed.url).status == 200
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the proxy did not come back"
            time.sleep(0.2)
    assert (pids(deployed), pids(deployed, "gateway")) == replicas


def test_the_share_of_a_canary_changes_at_run_time(deployed: Deployed) -> None:
    canary = {"canary_model": str(deployed.second), "replicas": 1}
    deployed.deploy(canary_percent=0, **canary)
    stable = {prompt_tokens(deployed.url) for _ in range(8)}
    assert len(stable) == 1
    replicas = pids(deployed), pids(deployed, "engine-canary"), pids(deployed, "gateway")
    deployed.deploy(canary_percent=25, **canary)
    counted = Counter(prompt_tokens(deployed.url) for _ in range(60))
    # Each is drawn: fewer than 2 or more than 32 of 60 happen once in a million times.
    assert len(counted) == 2
    assert 60 - 32 <= counted[stable.pop()] <= 60 - 2
    deployed.deploy(canary_percent=100, **canary)
    assert set(Counter(prompt_tokens(deployed.url) for _ in range(8)).values()) == {8}
    assert (pids(deployed), pids(deployed, "engine-canary"), pids(deployed, "gateway")) == replicas


def test_the_first_request_wakes_a_model_that_was_scaled_to_zero(deployed: Deployed) -> None:
    """And after a while without requests it is at zero again."""
    impatient = {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1, "downscale_delay_s": 1}}
    deployed.deploy(min_replicas=0, max_replicas=1, engine=impatient)
    for _ in range(2):
        wait_for_replicas(deployed, 0)
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(ask, [deployed.url] * 3))
        assert statuses(answers) == {200}


def wait_for_replicas(deployed: Deployed, count: int, deployment: str = "engine") -> None:
    deadline = time.monotonic() + 120
    while len(pids(deployed, deployment)) != count:
        assert time.monotonic() < deadline, f"there are {pids(deployed, deployment)} of {count} replicas"
        time.sleep(0.2)
