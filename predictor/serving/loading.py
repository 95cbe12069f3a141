"""Loads the model on a thread of its own, while the server's imports and start go on."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from predictor.documentation import page
from predictor.engine.engine import Engine
from predictor.serving.startup import StartupPlan
from predictor.telemetry.startup_times import StartupTimes

if TYPE_CHECKING:
    from predictor.generation.embedding import TextEmbedder
    from predictor.generation.text import TextGenerator
    from predictor.telemetry.metrics import EngineMetrics
    from predictor.telemetry.tracing import RequestTracer

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5


class BackgroundLoad:
    """A model on its way into memory.

    Args:
        plan: what to load; loading begins at once.
        times: gets the parts `load` and `warm_up`.
    """

    def __init__(self, plan: StartupPlan, times: StartupTimes) -> None:
        self.name = plan.name
        self.aliases = plan.aliases
        self.adapters = list(plan.engine.adapters)
        self._plan = plan
        self._times = times
        self._counters: Future[EngineMetrics] = Future()
        self._engine: Future[Engine] = Future()
        self._engine.set_running_or_notify_cancel()  # Who gives up waiting must not cancel the load.
        # A daemon: a signal in the middle of a long load must be able to end the process.
        threading.Thread(target=self._run, name="load", daemon=True).start()

    async def wait(self) -> TextGenerator | TextEmbedder:
        """What answers requests, once the model is loaded and warm.

        Raises:
            StartupError: the model or its chat template can't be used.
        """
        # Not at the top, so that the load begins first.
        from predictor.chat.format import ChatFormat
        from predictor.chat.prompting import Reasoning
        from predictor.chat.template import ChatTemplate
        from predictor.generation.embedding import TextEmbedder
        from predictor.generation.text import TextGenerator

        engine = await asyncio.wrap_future(self._engine)
        pooling = self._plan.engine.pooling
        if pooling is not None:
            return TextEmbedder(self.name, engine, pooling, group=2 * self._plan.engine.max_sequences)
        source = self._plan.chat_template or engine.model.chat_template
        chat_format = None
        if source is not None:
            template = ChatTemplate(source, engine.model.bos_text, engine.model.eos_text)
            ends, reasoning = engine.model.end_texts(), Reasoning(self._plan.reasoning)
            chat_format = await asyncio.to_thread(ChatFormat, template, ends, reasoning)
            logger.info("chat format: %s", chat_format.describe())
        generator = TextGenerator(
            self.name, engine, chat_format, trust_message_tokens=self._plan.trust_message_tokens
        )
        for weakness in generator.weaknesses():
            logger.warning(
                "the chat template of %s isn't safe from its users: %s (%s)",
                self.name,
                weakness,
                page("security#control-tokens-in-what-users-write"),
            )
        return generator

    async def watch(self) -> None:
        """Return never; the engine must be loaded.

        Raises:
            EngineFailure: the engine ended by itself, so that the process has to.
        """
        while True:
            self.check()
            await asyncio.sleep(WATCH_SECONDS)

    def check(self) -> None:
        """Do nothing while the engine works; it must be loaded.

        Raises:
            EngineFailure: the engine ended by itself.
        """
        failure = self._engine.result().failure
        if failure is not None:
            raise failure

    def record_start(self) -> None:
        """Show this model's metrics in `/metrics`, once, when it has been made available."""
        from prometheus_client import REGISTRY

        from predictor.engine.llama.cpu import is_repacked
        from predictor.formats.advice import log_format
        from predictor.formats.repacking import report_format
        from predictor.telemetry.metrics import ModelInfo, register_start

        self._times.finish()
        logger.info("started: %s", self._times)
        engine, report = self._engine.result(), report_format(self._plan.parts, is_repacked)
        info = ModelInfo(self.name, report.quantisation, engine.context_tokens, report.repacked_share)
        register_start(info, self._times.parts, self._metrics)
        # A registry is a collector, too: so a model's metrics can go with it.
        REGISTRY.register(self._metrics)
        if self._plan.engine.gpu_layers == 0:
            log_format(report, self._plan.engine.model_path)

    def withdraw_metrics(self) -> None:
        """Take this model's metrics out of `/metrics`, for one that takes its place."""
        from prometheus_client import REGISTRY

        REGISTRY.unregister(self._metrics)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let the running ones finish, and cut those that take longer.

        Cancelling it cuts them at once. A request that is cut ends with NotReady.
        """
        if not self._engine.done() or self._engine.exception() is not None:
            return
        engine = self._engine.result()
        done = False
        try:
            done = await engine.drain(seconds)
            if not done:
                logger.warning(
                    "the grace period of %g s is over; the requests still running are cut", seconds
                )
        finally:
            if not done:
                engine.abort()

    def count_refused(self, reason: str) -> None:
        """Count a request that was turned away before it came to the engine; see `EngineMetrics.refused`."""
        self._counters.result().refused(1, reason)

    def close(self) -> None:
        """Free the model, if it was loaded."""
        if self._engine.done() and self._engine.exception() is None:
            self._engine.result().close()

    def _tracer(self) -> RequestTracer | None:
        if self._plan.traces_endpoint is None:
            return None
        from predictor.telemetry.tracing import RequestTracer

        generates = self._plan.engine.pooling is None
        return RequestTracer(self.name, self._plan.traces_endpoint, generates=generates)

    def _run(self) -> None:
        try:
            # Imported here, beside the main thread's imports, as it takes a tenth of a second.
            from prometheus_client import CollectorRegistry

            from predictor.telemetry.metrics import EngineMetrics
            from predictor.telemetry.observer import ServingObserver

            self._metrics = CollectorRegistry()
            metrics = EngineMetrics(self.name, self._metrics)
            self._counters.set_result(metrics)
            with self._times.measure("load"):
                observer = ServingObserver(metrics, self._tracer())
                engine = Engine(self._plan.engine, observer)
            self._times.split("load", "warm_up", engine.warm_up_seconds)
            if self._plan.log_text:
                observer.log_text(engine.model.piece)
            metrics.read(engine.stats, max_adapters=len(self.adapters))
        except BaseException as error:
            if not self._counters.done():
                self._counters.set_exception(error)
            self._engine.set_exception(error)
            return
        parts = self._times.parts
        logger.info("loaded and warm after %.2f s", parts["load"] + parts["warm_up"])
        self._engine.set_result(engine)
