"""From grammars to constraints, with llguidance."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from predictor.engine.constraint import TokenConstraint
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import InvalidRequest
from predictor.structured.check import limits
from predictor.structured.checker import GrammarChecker
from predictor.structured.constraint import GrammarConstraint, TriggeredConstraint
from predictor.structured.grammar import Grammar, is_costly, json_schema_grammar
from predictor.structured.leniency import has_lenient_schema, passed_over, schema_of
from predictor.structured.thinking import Pieces, ThoughtMarks, ThoughtTracker

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

COMPILING_THREADS = 2
_MARKER_OF_CONTROL_TOKENS = b"\xff"
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")

_NO_MARKS: Mapping[int, bytes] = {}


@dataclass(frozen=True, slots=True)
class MakeConstraint:
    """Makes constraints of one grammar; each sequence needs one of its own.

    Attributes:
        make: makes one.
        not_enforced: places of the keywords of schemas that aren't enforced, each the request's field and a
            JSON pointer.
    """

    make: Callable[[], TokenConstraint]
    not_enforced: tuple[str, ...] = ()

    def __call__(self) -> TokenConstraint:
        """A new constraint."""
        return self.make()


@dataclass(frozen=True, slots=True)
class _Compiled:
    matcher: LLMatcher
    tokenizer: LLTokenizer
    vocabulary: Vocabulary
    not_enforced: tuple[str, ...]


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
        self._checker = GrammarChecker()
        # Compiling may take a second, and must not wait for, or hold up, what else runs on other threads.
        self._threads = ThreadPoolExecutor(COMPILING_THREADS, "grammar-compiler")

    async def whole(self, grammar: Grammar) -> MakeConstraint:
        """A maker of constraints that hold a whole answer to `grammar`; each sequence needs one of its own.

        Raises:
            InvalidRequest: the grammar can't be compiled, takes too much to do so, or doesn't allow what has
                been begun.
        """
        compiled = await self._compile(grammar)
        size = len(compiled.vocabulary.pieces)
        start = _behind(grammar.begun, compiled, grammar.param) if grammar.begun else compiled.matcher
        return MakeConstraint(
            lambda: GrammarConstraint(start.deep_copy(), size, grammar.param), compiled.not_enforced
        )

    async def enforceable(
        self, schema: Mapping[str, Any], param: str, *, strict: bool
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """A schema without the keywords that can't be enforced, and JSON pointers to these.

        Raises:
            InvalidRequest: there are such in a strict schema, or it takes too much to find out.
        """
        if not is_costly(schema):
            return schema, ()
        text, dropped = await self._tried(json_schema_grammar(schema, param, strict=strict))
        return schema_of(text), dropped

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
        compiled = await self._compile(grammar)
        return MakeConstraint(
            lambda: TriggeredConstraint(
                compiled.matcher,
                compiled.tokenizer,
                Pieces(compiled.vocabulary.pieces, marks),
                marker=marker.encode(),
                once=once,
                param=grammar.param,
                at_start=at_start,
                thought=None if thought is None else ThoughtTracker(thought),
            ),
            compiled.not_enforced,
        )

    async def _compile(self, grammar: Grammar) -> _Compiled:
        text = grammar.text
        dropped: tuple[str, ...] = ()
        if grammar.is_costly:
            text, dropped = await self._tried(grammar)
        problem, compiled = await self._compiled(text, grammar, dropped)
        if problem and not grammar.is_costly and has_lenient_schema(text):
            text, dropped = await self._tried(grammar)
            problem, compiled = await self._compiled(text, grammar, dropped)
        if compiled is None:
            raise _refused(grammar, problem)
        if compiled.not_enforced:
            logger.info("of a schema these keywords are not enforced: %s", ", ".join(compiled.not_enforced))
        return compiled

    async def _tried(self, grammar: Grammar) -> tuple[str, tuple[str, ...]]:
        """A grammar as it can be compiled, and what was taken out for that."""
        verdict = await self._checker.verdict(grammar.text)
        if verdict.problem:
            raise _refused(grammar, verdict.problem)
        return verdict.text, verdict.not_enforced

    async def _compiled(
        self, text: str, grammar: Grammar, dropped: Sequence[str]
    ) -> tuple[str, _Compiled | None]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._compile_here, text, grammar, dropped)

    def _compile_here(
        self, text: str, grammar: Grammar, dropped: Sequence[str]
    ) -> tuple[str, _Compiled | None]:
        """The compiled grammar, or why it can't be compiled."""
        from llguidance import LLMatcher

        with self._hold():
            tokenizer, vocabulary = self._read()
            matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits())
            if not matcher.is_error():
                matcher.compute_bitmask()
        if matcher.is_error():
            return matcher.get_error(), None
        places = [*dropped, *passed_over(text, matcher.get_grammar_warnings())]
        named = (*grammar.not_enforced, *(grammar.named(place) for place in places))
        return "", _Compiled(matcher, tokenizer, vocabulary, tuple(dict.fromkeys(named)))

    def _read(self) -> tuple[LLTokenizer, Vocabulary]:
        with self._reading:
            if self._tokenizer is None or self._vocabulary is None:
                started = time.perf_counter()
                self._vocabulary = self._read_vocabulary()
                self._tokenizer = _tokenizer(self._vocabulary)
                logger.info("read the vocabulary for grammars in %.2f s", time.perf_counter() - started)
            return self._tokenizer, self._vocabulary


def _behind(begun: str, compiled: _Compiled, param: str) -> LLMatcher:
    """The matcher behind what an answer has begun with."""
    matcher = compiled.matcher.deep_copy()
    tokens = compiled.tokenizer.tokenize_bytes(begun.encode())
    if matcher.validate_tokens(tokens) < len(tokens) or not matcher.consume_tokens(tokens):
        raise InvalidRequest(
            f"the last message is to be continued, but it doesn't begin what {param} allows", param=param
        )
    if matcher.is_stopped():
        raise InvalidRequest(f"the last message is all that {param} allows already", param=param)
    return matcher


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


def _refused(grammar: Grammar, problem: str) -> InvalidRequest:
    # The lines after the first quote the grammar, as it looks after its translation.
    reason = _PLACE.sub("", problem.partition("\n")[0])
    if reason.startswith("NoExtension"):
        reason = "there is no text that fits it"
    return InvalidRequest(f"{grammar.param} can't be used: {reason[:500]}", param=grammar.param)
