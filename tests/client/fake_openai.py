"""A fake of an OpenAI server that speaks real HTTP and answers with known delays."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

FIRST_TOKEN_SECONDS = 0.15
BETWEEN_SECONDS = 0.05


@dataclass
class FakeServer:
    """A fake: it generates nothing. It waits FIRST_TOKEN_SECONDS, then sends a chunk each BETWEEN_SECONDS.

    Its usage counts two tokens for every chunk, as a server does that sends several at once.
    """

    url: str = ""
    api_key: str = ""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    fail_every: int = 0
    running: int = 0
    most_running: int = 0
    left_early: int = 0

    async def list_models(self, request: web.Request) -> web.Response:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        return web.json_response({"object": "list", "data": [{"id": "fake"}, {"id": "other"}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.fail_every and len(self.bodies) % self.fail_every == 0:
            return web.json_response({"error": {"message": "busy"}}, status=503)
        if body["model"] == "unknown":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if body.get("stream"):
                return await self._stream(request, body)
            await asyncio.sleep(FIRST_TOKEN_SECONDS)
            return web.json_response({"choices": [{}], "usage": self._usage(body)})
        except (ConnectionResetError, asyncio.CancelledError):
            self.left_early += 1
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._generate(response, body)
        return response

    async def _generate(self, response: web.StreamResponse, body: dict[str, Any]) -> None:
        is_chat = "messages" in body
        if is_chat:
            await send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(FIRST_TOKEN_SECONDS)
        for index in range(body["max_tokens"] // 2):
            if index:
                await asyncio.sleep(BETWEEN_SECONDS)
            if body["model"] == "breaks" and index == 1:
                await send(response, {"error": {"message": "out of memory"}})
                return
            choice = {"delta": {"content": "two tokens"}} if is_chat else {"text": "two tokens"}
            await send(response, {"choices": [choice]})
        if body["model"] != "no usage":
            await send(response, {"choices": [], "usage": self._usage(body)})
        await response.write(b"data: [DONE]\n\n")

    def _usage(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt_tokens": 11,
            "completion_tokens": body["max_tokens"],
            "prompt_tokens_details": {"cached_tokens": 7},
        }


async def send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    event = {"object": "chat.completion.chunk", "model": "fake", **event}
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


if __name__ == "__main__":  # a server that the bench command and others can be compared on
    fake = FakeServer()
    served = web.Application()
    served.router.add_get("/v1/models", fake.list_models)
    served.router.add_post("/v1/chat/completions", fake.answer)
    web.run_app(served, host="127.0.0.1", port=int(sys.argv[1]))
