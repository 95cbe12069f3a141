"""What an operator does to the application while it is used, on a real Ray cluster."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx
import psutil
import pytest
from chat_load import BODY, Answer, answers_during, ask, prompt_tokens
from deployed_application import Deployed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def pids(deployed: Deployed, deployment: str = "engine") -> set[int]:
    return {process.pid for process in deployed.cluster.replicas(deployment)}


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
    url, body = f"{deployed.url}/v1/chat/completions", {**BODY, "max_tokens": 1500, "stream": True}
    with httpx.stream("POST", url, json=body, timeout=120) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        for process in deployed.cluster.replicas("engine"):
            process.kill()
        rest = [line for line in lines if line]
    assert '"code":"unavailable"' in rest[-1]
    assert "[DONE]" not in rest[-1]
    # The next request waits for the new replica instead of failing.
    assert ask(deployed.url).status == 200


def test_the_share_of_a_canary_changes_at_run_time(deployed: Deployed) -> None:
    canary = {"canary_model": str(deployed.second), "replicas": 1}
    deployed.deploy(canary_percent=0, **canary)
    stable = {prompt_tokens(deployed.url) for _ in range(8)}
    assert len(stable) == 1
    replicas = pids(deployed), pids(deployed, "engine-canary"), pids(deployed, "gateway")
    deployed.deploy(canary_percent=25, **canary)
    counted = Counter(prompt_tokens(deployed.url) for _ in range(20))
    assert counted[stable.pop()] == 15
    assert sorted(counted.values()) == [5, 15]
    deployed.deploy(canary_percent=100, **canary)
    assert set(Counter(prompt_tokens(deployed.url) for _ in range(8)).values()) == {8}
    assert (pids(deployed), pids(deployed, "engine-canary"), pids(deployed, "gateway")) == replicas


def test_the_first_request_wakes_a_model_that_was_scaled_to_zero(deployed: Deployed) -> None:
    deployed.deploy(min_replicas=0, max_replicas=1)
    assert pids(deployed) == set()
    answers: list[Answer] = []
    clients = [threading.Thread(target=lambda: answers.append(ask(deployed.url))) for _ in range(3)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [answer.status for answer in answers] == [200] * 3
    assert len(pids(deployed)) == 1


def wait_for_replicas(deployed: Deployed, count: int) -> None:
    deadline = time.monotonic() + 120
    while (
        sum(process.status() != psutil.STATUS_ZOMBIE for process in deployed.cluster.replicas("engine"))
        < count
    ):
        assert time.monotonic() < deadline, "the killed replica was not replaced"
        time.sleep(0.2)
