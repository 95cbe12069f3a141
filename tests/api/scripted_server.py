"""A real uvicorn server with every route and middleware of ours, on a scripted engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from fastapi import FastAPI
from scripted_engine import ScriptedEngine, say
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse

from predictor.api.anthropic.routes import messages_router
from predictor.api.chat_page import install_page
from predictor.api.http.errors import install_error_handlers
from predictor.api.http.middleware import install_middleware
from predictor.api.open_inference.generate import generate_router
from predictor.api.openai.responses.routes import responses_router
from predictor.api.openai.routes import openai_router
from predictor.api.predict import predict_router
from predictor.chat.format import ChatFormat
from predictor.chat.template import ChatTemplate
from predictor.generation.served_models import ServedModels
from predictor.generation.text import TextGenerator
from predictor.serving.http_protocol import use_bounded_protocol

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('unknown role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
)


@dataclass
class ScriptedServer:
    """A running server and the engine behind it."""

    url: str
    engine: ScriptedEngine
    models: ServedModels
    http: httpx.Client
    ended: list[str]

    def post(self, path: str, body: object) -> httpx.Response:
        return self.http.post(path, json=body)


@contextmanager
def scripted_server(max_body: int = 100_000, client_seconds: float = 60) -> Iterator[ScriptedServer]:
    """Start the server, and stop it at the end.

    Args:
        max_body: largest body that it takes, in bytes.
        client_seconds: how long it waits for its clients.
    """
    engine = ScriptedEngine(scripts=[say("Hel", "lo")])
    models = ServedModels("tiny")
    models.publish(TextGenerator("tiny", engine, ChatFormat(ChatTemplate(TEMPLATE, "", ""))))
    app = FastAPI()
    install_error_handlers(app)
    for router, prefix in (
        (openai_router(models), "/v1"),
        (openai_router(models), "/openai/v1"),
        (responses_router(models), "/v1"),
        (responses_router(models), "/openai/v1"),
        (messages_router(models), "/v1"),
        (generate_router(models), ""),
        (predict_router(models), ""),
    ):
        app.include_router(router, prefix=prefix)
    install_page(app)
    ended: list[str] = []
    _add_test_routes(app, ended)
    install_middleware(app, max_body_bytes=max_body)
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="warning")
    use_bounded_protocol(config, client_seconds)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=10) as http:
            yield ScriptedServer(url, engine, models, http, ended)
    finally:
        server.should_exit = True
        thread.join()


def _add_test_routes(app: FastAPI, ended: list[str]) -> None:
    """Routes that behave as kserve's may: wait for long, fail, refuse without a hint."""

    @app.post("/v1/models/slow:predict")
    async def slow(request: Request) -> None:
        await request.body()
        ended.append("started")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    @app.post("/boom")
    async def boom() -> None:
        raise RuntimeError("secret detail")

    @app.post("/busy", status_code=503)
    async def busy() -> dict[str, str]:
        return {"error": "busy"}

    @app.post("/afterwards")
    async def afterwards() -> JSONResponse:
        async def finish() -> None:
            await asyncio.sleep(0.1)
            ended.append("finished")

        return JSONResponse("ok", background=BackgroundTask(finish))

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())
