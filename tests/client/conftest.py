"""The fake server, for the tests of everything that sends load."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from aiohttp import web
from fake_openai import FakeServer


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    application = web.Application()
    application.router.add_post("/v1/completions", server.answer)
    application.router.add_get("/v1/models", server.list_models)
    application.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()
