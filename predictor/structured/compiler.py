"""From grammars to constraints, with llguidance."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.engine.constraint import TokenConstraint
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import InvalidRequest
from predictor.structured.check import limits
from predictor.structured.constraint import GrammarConstraint, TriggeredConstraint
from predictor.structured.grammar import Grammar
from predictor.structured.thinking import Pieces, ThoughtMarks, ThoughtTracker

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

CHECK_SECONDS = 20
"""The check's own limit is on its processor time; this one is for a machine that gives it none."""
_CHECK = Path(__file__).with_name("check.py")
_MAX_CHECKED = 1024
_MARKER_OF_CONTROL_TOKENS = b"\xff"
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")

_NO_MARKS: Mapping[int, bytes] = {}

MakeConstraint = Callable[[], TokenConstraint]


class ConstraintCompiler:
    """Compiles grammars for one model. The first use reads its vocabulary, half a second for 49,000 tokens.

    Args:
        read_vocabulary: called once, on another thread.
        hold: keeps the vocabulary's addresses valid while a grammar is compiled, on that thread.
    """

    def __init__(
        self,
        read_vocabulary: Callable[[], Vocabulary],
        hold: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._read_vocabulary = read_vocabulary
        self._hold = hold
        self._tokenizer: LLTokenizer | None = None
        self._vocabulary: Vocabulary | None = None
        self._reading = threading.Lock()
        self._checking = asyncio.Lock()
        self._checked: OrderedDict[bytes, None] = OrderedDict()

    async def whole(self, grammar: Grammar) -> MakeConstraint:
        """A maker of constraints that hold a whole answer to `grammar`; each sequence needs one of its own.

        Raises:
            InvalidRequest: the grammar can't be compiled, or takes too much to do so.
        """
        matcher, _, vocabulary = await self._compile(grammar)
        size = len(vocabulary.pieces)
        return lambda: GrammarConstraint(matcher.deep_copy(), size, grammar.param)

    async def pieces(self, marks: Mapping[int, bytes]) -> Pieces:
        """Bytes of each token as they show in answers.

        Args:
            marks: text of the control tokens that show, by id.
        """
        _, vocabulary = await asyncio.to_thread(self._read)
        return Pieces(vocabulary.pieces, marks)

    async def after(
        self,
        marker: str,
        grammar: Grammar,
        *,
        once: bool,
        at_start: bool = False,
        thought: ThoughtMarks | None = None,
        marks: Mapping[int, bytes] = _NO_MARKS,
    ) -> MakeConstraint:
        """A maker of constraints that hold to `grammar` what follows each `marker` in an answer.

        Args:
            marker: the text that starts it.
            grammar: of what comes behind the marker.
            once: whether the answer ends after the first such part.
            at_start: whether only the answer's start can be a marker.
            thought: marks of thoughts, in which markers count for nothing.
            marks: text of the control tokens that show in answers, by id.

        Raises:
            InvalidRequest: the grammar can't be compiled, or takes too much to do so.
        """
        matcher, tokenizer, vocabulary = await self._compile(grammar)
        pieces = Pieces(vocabulary.pieces, marks)
        return lambda: TriggeredConstraint(
            matcher,
            tokenizer,
            pieces,
            marker=marker.encode(),
            once=once,
            param=grammar.param,
            at_start=at_start,
            thought=None if thought is None else ThoughtTracker(thought),
        )

    async def _compile(self, grammar: Grammar) -> tuple[LLMatcher, LLTokenizer, Vocabulary]:
        if grammar.is_costly:
            await self._check(grammar)
        return await asyncio.to_thread(self._compile_here, grammar)

    async def _check(self, grammar: Grammar) -> None:
        digest = hashlib.sha256(grammar.text.encode("utf-8", "replace")).digest()
        if digest in self._checked:
            return
        async with self._checking:  # One at a time: each may take a core for seconds.
            problem = await asyncio.to_thread(_problem, grammar.text)
        if problem:
            raise _refused(grammar, problem)
        self._checked[digest] = None
        if len(self._checked) > _MAX_CHECKED:
            self._checked.popitem(last=False)

    def _compile_here(self, grammar: Grammar) -> tuple[LLMatcher, LLTokenizer, Vocabulary]:
        from llguidance import LLMatcher

        with self._hold():
            tokenizer, vocabulary = self._read()
            matcher = LLMatcher(tokenizer, grammar.text, log_level=0, limits=limits())
            if not matcher.is_error():
                matcher.compute_bitmask()
        if matcher.is_error():
            raise _refused(grammar, matcher.get_error())
        return matcher, tokenizer, vocabulary

    def _read(self) -> tuple[LLTokenizer, Vocabulary]:
        with self._reading:
            if self._tokenizer is None or self._vocabulary is None:
                started = time.perf_counter()
                self._vocabulary = self._read_vocabulary()
                self._tokenizer = _tokenizer(self._vocabulary)
                logger.info("read the vocabulary for grammars in %.2f s", time.perf_counter() - started)
            return self._tokenizer, self._vocabulary


def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    from llguidance import LLTokenizer

    tokens = list(vocabulary.pieces)
    for token, name in vocabulary.control.items():
        tokens[token] = _MARKER_OF_CONTROL_TOKENS + name
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]
        tokens=tokens,
        vocab_ptr=vocabulary.address,
        tokenize_fptr=vocabulary.tokenize_address,
        eos_token=list(vocabulary.end_tokens),
    )


def _problem(grammar: str) -> str:
    """Why a process of its own couldn't compile the grammar; "" where it could."""
    command = [sys.executable, "-I", str(_CHECK)]
    try:
        done = subprocess.run(  # noqa: S603 - our own script, and the grammar is only its input
            command, input=grammar, capture_output=True, text=True, encoding="utf-8", timeout=CHECK_SECONDS
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to compile"
    if done.returncode != 0:
        logger.warning("a grammar ended its check with %d: %s", done.returncode, done.stderr[-500:])
        return "it takes too much time or memory to compile"
    return done.stdout


def _refused(grammar: Grammar, problem: str) -> InvalidRequest:
    # The lines after the first quote the grammar, as it looks after its translation.
    reason = _PLACE.sub("", problem.partition("\n")[0])
    if reason.startswith("NoExtension"):
        reason = "there is no text that fits it"
    return InvalidRequest(f"{grammar.param} can't be used: {reason[:500]}", param=grammar.param)
