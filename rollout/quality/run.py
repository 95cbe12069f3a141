"""Sends a golden set to both revisions, in the background, since it takes minutes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from rollout.quality.answers import Endpoint, NoAnswer, ask, mean_logprob
from rollout.quality.gate import Quality
from rollout.quality.golden import GoldenPrompt
from rollout.quality.scoring import Compared

# At a time, so that users' requests keep their places.
_WORKERS = 2


class GoldenRun:
    """One run of a golden set; starts at once, on daemon threads, which never keep the process alive.

    Args:
        prompts: at least one.
        stable, canary: the two revisions.
        model: the served model's name on the stable revision, and on the canary.
    """

    def __init__(
        self, prompts: Sequence[GoldenPrompt], stable: Endpoint, canary: Endpoint, models: tuple[str, str]
    ) -> None:
        self._stable, self._canary, self._models = stable, canary, models
        self._todo: queue.SimpleQueue[tuple[int, GoldenPrompt]] = queue.SimpleQueue()
        self._done: dict[int, Compared] = {}
        self._failure: Exception | None = None
        self.total = len(prompts)
        for item in enumerate(prompts):
            self._todo.put(item)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_WORKERS)]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> int:
        """Prompts compared so far."""
        return len(self._done)

    def result(self) -> Quality | None:
        """All comparisons in the golden set's order; None while the run lasts.

        Raises:
            Exception: the run broke off, by a mistake in this program.
        """
        if self._failure is not None:
            raise self._failure
        if len(self._done) < self.total:
            return None
        return Quality([self._done[index] for index in range(self.total)])

    def wait(self) -> Quality:
        """All comparisons, once there."""
        for thread in self._threads:
            thread.join()
        result = self.result()
        assert result is not None
        return result

    def _work(self) -> None:
        try:
            while self._failure is None:
                index, prompt = self._todo.get_nowait()
                self._done[index] = self._compare(prompt)
        except queue.Empty:
            return
        except Exception as error:
            self._failure = error

    def _compare(self, prompt: GoldenPrompt) -> Compared:
        stable = ask(self._stable, self._models[0], prompt)
        canary = ask(self._canary, self._models[1], prompt)
        if stable.error or canary.error or stable.mean_logprob is None:
            return Compared(prompt, stable, canary)
        if stable.text == canary.text:
            return Compared(prompt, stable, canary, 0.0)
        try:
            likelihood = mean_logprob(self._stable, self._models[0], prompt, canary.text)
        except NoAnswer:
            likelihood = None
        drop = None if likelihood is None else stable.mean_logprob - likelihood
        return Compared(prompt, stable, canary, drop)
