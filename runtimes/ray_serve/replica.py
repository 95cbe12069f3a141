"""A replica: one engine behind kserve's application, driven by calls from the gateway."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.types import Message, Scope

from predictor.errors import NotReady, StartupError
from predictor.serving.loading import BackgroundLoad
from predictor.serving.startup import plan_startup
from predictor.settings import Settings, explain
from predictor.telemetry.logs import add_request_fields, configure_logging
from predictor.telemetry.startup_times import StartupTimes
from runtimes.ray_serve.asgi_call import AsgiCall
from runtimes.ray_serve.grpc_service import GrpcAnswer
from runtimes.ray_serve.kserve_application import KServeApplication

logger = logging.getLogger(__name__)

SWITCHABLE = {"model", "model_file", "chat_template"}
"""What `user_config` may hold: the settings that a running replica takes over without a restart."""


class _Generation:
    """A loaded model and the requests that began with it."""

    def __init__(self, load: BackgroundLoad) -> None:
        self.load = load
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self._requests += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._requests -= 1
        if not self._requests:
            self._idle.set()

    async def end(self, seconds: float) -> None:
        """Free the model as soon as its requests are done, after so many seconds in any case."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            logger.warning("the last requests of the old model took over %g s and are cut", seconds)
        await self.load.drain(0)
        await asyncio.to_thread(self.load.close)


class EngineReplica:
    """Serves one model. Ray Serve calls `reconfigure` with the first model and again with every other.

    Args:
        options: the settings, by field name, with `model_name` and `threads`.

    Raises:
        StartupError: a setting is wrong.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._times = StartupTimes()
        self._options = dict(options)
        self._settings = Settings(**self._options)
        configure_logging(self._settings)
        # kserve reads the command line when it is imported, and a Ray worker's says nothing to it.
        sys.argv = sys.argv[:1]
        with self._times.measure("imports"):
            self._application = KServeApplication(self._settings, self._count_refused)
        add_request_fields(**self._application.log_fields)
        self._current: _Generation | None = None
        self._ending: dict[asyncio.Task[None], _Generation] = {}
        self._switch = asyncio.Lock()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Load the model that `config` names and let it take over; requests under way keep the old one.

        A model that can't be used leaves the old one where it is: Ray would end a replica whose
        reconfiguration fails, and its replacement would fail again.

        Raises:
            StartupError: the first model can't be used.
        """
        async with self._switch:
            try:
                load = await self._load(config)
            except Exception as error:
                if self._current is None:
                    raise
                logger.error("the model was not switched and the old one goes on: %s", error)
                return
            old, self._current = self._current, _Generation(load)
            if old is not None:
                old.load.withdraw_metrics()
                ending = asyncio.create_task(old.end(self._settings.grace_period_seconds))
                self._ending[ending] = old
                ending.add_done_callback(self._ending.pop)
            load.record_start()
        logger.info("serving %s as %r", config.get("model", self._settings.model), load.name)

    async def _load(self, config: Mapping[str, Any]) -> BackgroundLoad:
        """Load the model and publish it."""
        if unknown := sorted(config.keys() - SWITCHABLE):
            raise StartupError(f"user_config: unknown {unknown[0]!r}; known: {', '.join(sorted(SWITCHABLE))}")
        try:
            settings = Settings(**{**self._options, **config})
        except ValidationError as error:
            raise StartupError(explain(error)) from None
        times = self._times if self._current is None else StartupTimes(of_process=False)
        with times.measure("prepare"):
            plan = await asyncio.to_thread(plan_startup, settings)
        load = BackgroundLoad(plan, times)
        try:
            self._application.models.publish(await load.wait())
        except Exception:
            await asyncio.to_thread(load.close)
            raise
        return load

    def check_health(self) -> None:
        """Ray replaces a replica whose check fails.

        Raises:
            EngineFailure: llama.cpp failed.
        """
        if self._current is not None:
            self._current.load.check()

    async def respond(self, scope: Scope, body: bytes, **_: Any) -> AsyncIterator[list[Message]]:
        """Answer one HTTP request.

        Args:
            scope: ASGI's, of the gateway.
            body: the whole request body.

        Yields:
            Nothing to send as soon as the request is taken, then ASGI messages, as many as there are at the
            moment.
        """
        with self._generation():
            async with AsgiCall(self._application.app, scope, body) as call:
                yield []
                async for messages in call:
                    yield messages

    async def infer(
        self, method: str, request: bytes, metadata: list[tuple[str, str]], **_: Any
    ) -> AsyncIterator[GrpcAnswer | None]:
        """Answer one call of the Open Inference Protocol.

        Args:
            method: such as `ModelInfer`.
            request: the message, serialized.
            metadata: of the call.

        Yields:
            None as soon as the call is taken, then the answer.
        """
        with self._generation():
            yield None
            yield await self._application.grpc.call(method, request, metadata)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let the running ones finish, and cut those that take longer.

        Args:
            seconds: how long they may take; a second call with less cuts them earlier.
        """
        self._application.models.withdraw_all()
        generations = [*self._ending.values(), *([] if self._current is None else [self._current])]
        await asyncio.gather(*(generation.load.drain(seconds) for generation in generations))

    def _count_refused(self, reason: str) -> None:
        if self._current is not None:
            self._current.load.count_refused(reason)

    def _generation(self) -> _Generation:
        if self._current is None:
            raise NotReady("the replica has no model yet")
        return self._current

    async def __del__(self) -> None:
        """Ray calls this once the last request is done, or its time is over."""
        self._application.models.withdraw_all()
        if self._current is not None:
            await self._current.end(1)
        await asyncio.gather(*self._ending, return_exceptions=True)
