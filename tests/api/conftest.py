"""Fixtures of the protocols' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from scripted_server import ScriptedServer, scripted_server
from server_process import Server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of the server with the demo model."""
    url = server.http_url + "/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=200) as client:
        yield client


@pytest.fixture
def ask(client: openai.OpenAI, server: Server, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Asks for a chat completion with the module's DEFAULTS and what else is given."""

    def ask(**fields: Any) -> Any:
        fields = {**request.module.DEFAULTS, **fields}
        return client.chat.completions.create(model=server.model_name, **fields)

    return ask


@pytest.fixture
def max_body() -> int:
    """Largest body that the scripted server takes; modules may have their own."""
    return 100_000


@pytest.fixture
def client_seconds() -> float:
    """How long the scripted server waits for its clients; modules may have their own."""
    return 60


@pytest.fixture
def scripted(max_body: int, client_seconds: float) -> Iterator[ScriptedServer]:
    """A server of its own for each test."""
    with scripted_server(max_body, client_seconds) as server:
        yield server
