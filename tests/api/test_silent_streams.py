"""Streams that have nothing to say for longer than proxies and clients bear: a ping keeps them alive."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import openai
import pytest
from agent_script import PLAIN
from polling import wait_until
from proxies import envoy, nginx, nginx_command
from server_process import Server
from shapes import named_events

IDLE_SECONDS = 2
HI: list[Any] = [{"role": "user", "content": "Hi"}]
NODE_SCRIPT = Path(__file__).with_name("node_stream.mjs")


@contextmanager
def occupied(server: Server) -> Iterator[None]:
    """Within the block the server's only sequence belongs to another request: all others wait in silence."""
    body = {"model": server.model_name, "prompt": "a", "max_tokens": 120_000, "ignore_eos": True}
    address = urlsplit(server.http_url)
    holder = http.client.HTTPConnection(address.hostname or "", address.port)
    headers = {"content-type": "application/json"}
    holder.request("POST", "/v1/completions", json.dumps(body), headers)
    try:
        wait_until(lambda: figure(server, "num_requests_running") == 1)
        yield
    finally:
        holder.close()


def figure(server: Server, name: str) -> float:
    """One of the server's gauges."""
    text = httpx.get(f"{server.http_url}/metrics", timeout=60).text
    found = re.search(rf"^\w*:?{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
    assert found is not None, text
    return float(found[1])


def openai_chat(url: str, model: str) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=IDLE_SECONDS) as client:
        stream = client.chat.completions.create(model=model, messages=HI, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def openai_responses(url: str, model: str) -> str:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=IDLE_SECONDS) as client,
        client.responses.stream(model=model, input="Hi") as stream,
    ):
        return stream.get_final_response().output_text


def anthropic_messages(url: str, model: str) -> str:
    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=IDLE_SECONDS) as client,
        client.messages.stream(model=model, max_tokens=100, messages=HI) as stream,
    ):
        return stream.get_final_text()


def node_fetch(url: str, model: str) -> str:
    node = shutil.which("node")
    assert node is not None
    command = [node, str(NODE_SCRIPT), url, model, str(IDLE_SECONDS * 1000)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def whole_answer(url: str, model: str) -> int:
    """The status of an answer that isn't streamed, and so can't be kept alive."""
    body = {"model": model, "messages": HI}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code


CLIENTS: list[Callable[[str, str], str]] = [openai_chat, openai_responses, anthropic_messages, node_fetch]
FRONTS = ("direct", "envoy", "nginx")
MISSING = {
    "nginx": None if nginx_command() else "nginx is not installed",
    "node_fetch": None if shutil.which("node") else "node is not installed",
}


@dataclass
class Outcome:
    """What came of one long silence.

    Attributes:
        texts: of streams, by front and client.
        statuses: of answers that aren't streamed, by front.
    """

    texts: dict[tuple[str, str], str]
    statuses: dict[str, int]


@pytest.fixture(scope="module")
def silence(agent_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All clients through all fronts at once, since a silence takes its time."""
    folder, url = tmp_path_factory.mktemp("proxies"), agent_server.http_url
    with ExitStack() as stack:
        fronts = {"direct": url, "envoy": stack.enter_context(envoy(url, folder, idle_seconds=IDLE_SECONDS))}
        if not MISSING["nginx"]:
            fronts["nginx"] = stack.enter_context(nginx(url, folder, idle_seconds=IDLE_SECONDS))
        pool = stack.enter_context(ThreadPoolExecutor(16))
        with occupied(agent_server):
            streams = {
                (name, client.__name__): pool.submit(client, front, agent_server.model_name)
                for name, front in fronts.items()
                for client in CLIENTS
                if not MISSING.get(client.__name__)
            }
            wait_until(lambda: figure(agent_server, "num_requests_waiting") == len(streams))
            # These take longer than a stream may be silent.
            cut = [
                pool.submit(whole_answer, front, "agent")
                for name, front in fronts.items()
                if name != "direct"
            ]
            statuses = dict(zip([*fronts][1:], [future.result() for future in cut], strict=True))
        return Outcome({who: _text(future) for who, future in streams.items()}, statuses)


def _text(future: Future[str]) -> str:
    try:
        return future.result()
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize("client", [client.__name__ for client in CLIENTS])
@pytest.mark.parametrize("front", FRONTS)
def test_a_client_does_not_notice_a_long_silence(
    request: pytest.FixtureRequest, front: str, client: str
) -> None:
    if missing := MISSING.get(front) or MISSING.get(client):
        pytest.skip(missing)
    outcome: Outcome = request.getfixturevalue("silence")
    assert outcome.texts[front, client] == PLAIN


@pytest.mark.parametrize("front", FRONTS[1:])
def test_what_is_not_streamed_is_cut_by_proxies(request: pytest.FixtureRequest, front: str) -> None:
    """Which shows that they would cut a silent stream, too."""
    if missing := MISSING.get(front):
        pytest.skip(missing)
    outcome: Outcome = request.getfixturevalue("silence")
    assert outcome.statuses[front] == 504


def test_each_protocol_has_its_own_ping_and_the_headers_come_at_once(agent_server: Server) -> None:
    asked = {
        "/v1/chat/completions": {"messages": HI},
        "/v1/completions": {"prompt": "Hi", "max_tokens": 1},
        "/v1/responses": {"input": "Hi"},
        "/v1/messages": {"messages": HI, "max_tokens": 100},
    }

    def ask(path: str) -> str:
        body = {"model": agent_server.model_name, "stream": True, **asked[path]}
        with httpx.stream("POST", agent_server.http_url + path, json=body, timeout=60) as answer:
            assert answer.status_code == 200
            heads.release()
            return answer.read().decode()

    heads = threading.Semaphore(0)
    with ThreadPoolExecutor(len(asked)) as pool:
        with occupied(agent_server):
            futures = {path: pool.submit(ask, path) for path in asked}
            # Headers come while nothing has been computed.
            assert all(heads.acquire(timeout=30) for _ in asked)
            time.sleep(1.6)
        answers = {path: future.result() for path, future in futures.items()}
    for path, text in answers.items():
        pings = text.count("event: ping\n") - 1 if path == "/v1/messages" else text.count(": ping\n\n")
        assert pings >= 2, (path, text)
    assert not re.search("^: ping", answers["/v1/messages"], re.M)
    [(first, _), *_] = named_events(answers["/v1/messages"])
    assert first == "message_start"


def test_progress_of_the_prompt_as_llama_server_tells_it(agent_server: Server) -> None:
    prompt = "".join(f"{i} " for i in range(1000))
    body = {"model": agent_server.model_name, "stream": True, "return_progress": True, "max_tokens": 2}
    for path, fields in (
        ("/v1/completions", {"prompt": prompt}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": prompt + "?"}]}),
    ):
        text = httpx.post(agent_server.http_url + path, json={**body, **fields}, timeout=60).text
        chunks = [httpx.Response(200, text=line[6:]).json() for line in text.split("\n\n")[:-2] if line]
        told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
        total = told[0]["total"]
        assert total > 1000
        assert len(told) >= 3
        processed = [progress["processed"] for progress in told]
        assert processed == sorted(set(processed))
        assert processed[-1] == total
        assert all(progress["cache"] < progress["processed"] for progress in told)
        assert [progress["time_ms"] for progress in told] == sorted(progress["time_ms"] for progress in told)
        assert any(
            choice.get("text") or choice.get("delta") for chunk in chunks for choice in chunk["choices"]
        )
    without = {**body, "prompt": "Hi", "return_progress": False}
    assert "prompt_progress" not in httpx.post(f"{agent_server.http_url}/v1/completions", json=without).text
