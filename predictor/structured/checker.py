"""A warm process that tries grammars, one at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from predictor.structured.check import Verdict

logger = logging.getLogger(__name__)

CHECK_SECONDS = 20
"""The check's own limit is on its processor time; this one is for a machine that gives it none."""
_TOO_MUCH = "it takes too much time or memory to compile"
_CHECK = Path(__file__).with_name("check.py")
_MAX_KEPT = 1024
_MAX_KEPT_CHARACTERS = 32 * 1024


class GrammarChecker:
    """Tries grammars in a process that stays warm; it is started with the first and replaced when it ends.

    One thread asks it, so that there is never more than one check, whichever of the askers has left: a check
    that has begun goes on to its end or its limit, one that hasn't is dropped with its asker. What was found
    is remembered.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Verdict], str]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._found: OrderedDict[bytes, Verdict] = OrderedDict()

    async def verdict(self, grammar: str) -> Verdict:
        """What is known of a grammar, or the outcome of trying it."""
        known = self._found.get(_digest(grammar))
        if known is not None:
            return known
        if self._thread is None:
            # A daemon, so that a check that hangs never holds up the end of the server.
            self._thread = threading.Thread(target=self._run, name="grammar-checker", daemon=True)
            self._thread.start()
        future: Future[Verdict] = Future()
        self._waiting.put((future, grammar))
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while True:
            future, grammar = self._waiting.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._known_or_tried(grammar))
            except Exception as error:
                logger.exception("a grammar's check failed")
                future.set_exception(error)

    def _known_or_tried(self, grammar: str) -> Verdict:
        digest = _digest(grammar)
        known = self._found.get(digest)
        if known is not None:
            return known
        answer = self._ask(grammar)
        if isinstance(answer, str):
            return Verdict(answer, grammar)
        verdict = Verdict(answer["problem"], answer["text"], tuple(answer["not_enforced"]))
        if len(verdict.text) <= _MAX_KEPT_CHARACTERS:
            self._found[digest] = verdict
        if len(self._found) > _MAX_KEPT:
            self._found.popitem(last=False)
        return verdict

    def _ask(self, grammar: str) -> dict[str, Any] | str:
        """The process's answer, or why it has none."""
        answer = self._ask_once(grammar)
        # One that was to be renewed, or that the kernel killed for its memory, may have ended just now.
        return self._ask_once(grammar) or _TOO_MUCH if answer is None else answer

    def _ask_once(self, grammar: str) -> dict[str, Any] | str | None:
        """As `_ask`; None where the process had ended before."""
        process = self._running_process()
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + CHECK_SECONDS
        line = b""
        try:
            process.stdin.write(json.dumps(grammar).encode() + b"\n")
            process.stdin.flush()
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    return self._end("it takes too long to compile")
                if not (part := os.read(process.stdout.fileno(), 65536)):
                    break
                line += part
        except BrokenPipeError:
            pass
        if not line.endswith(b"\n"):
            return None if process.wait() in (0, -signal.SIGKILL) else self._end(_TOO_MUCH)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-I", str(_CHECK)]
            # In a group of its own Ctrl-C doesn't reach it; it ends when this end of its input closes.
            self._process = subprocess.Popen(  # noqa: S603 - our own script, and grammars are only its input
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        return self._process

    def _end(self, reason: str) -> str:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        logger.warning("a grammar ended its check with %d: %s", process.wait(), reason)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        return reason


def _digest(grammar: str) -> bytes:
    return hashlib.sha256(grammar.encode("utf-8", "replace")).digest()
