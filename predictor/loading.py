"""Loads the model on a thread of its own, while the server's imports and start go on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future

from predictor.chat.template import ChatTemplate
from predictor.engine.engine import Engine
from predictor.startup import StartupPlan
from predictor.text_generation import TextGenerator

logger = logging.getLogger(__name__)


class BackgroundLoad:
    """A model on its way into memory.

    Args:
        plan: what to load; loading begins at once.
    """

    def __init__(self, plan: StartupPlan) -> None:
        self.name = plan.name
        self._plan = plan
        self._engine: Future[Engine] = Future()
        self._engine.set_running_or_notify_cancel()  # Who gives up waiting must not cancel the load.
        # A daemon: a signal in the middle of a long load must be able to end the process.
        threading.Thread(target=self._run, name="load", daemon=True).start()

    async def wait(self) -> TextGenerator:
        """The generator, once the model is loaded and warm.

        Raises:
            StartupError: the model or its chat template can't be used.
        """
        engine = await asyncio.wrap_future(self._engine)
        source = self._plan.chat_template or engine.model.chat_template
        template = None
        if source is not None:
            template = ChatTemplate(source, engine.model.bos_text, engine.model.eos_text)
        return TextGenerator(self.name, engine, template)

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
                engine.close()

    def close(self) -> None:
        """Free the model, if it was loaded."""
        if self._engine.done() and self._engine.exception() is None:
            self._engine.result().close()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            engine = Engine(self._plan.engine)
        except BaseException as error:
            self._engine.set_exception(error)
            return
        logger.info("loaded and warm after %.2f s", time.perf_counter() - started)
        self._engine.set_result(engine)
