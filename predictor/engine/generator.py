"""From the logits of a step to tokens, text and the ends of sequences."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from predictor.engine.detokenizer import Detokenizer
from predictor.engine.llama import Context, Model, Sampler
from predictor.engine.logprobs import LogSoftmax
from predictor.engine.observer import EngineObserver
from predictor.engine.request import Delta, FinishReason, TokenLogprob
from predictor.engine.sequence import Sequence
from predictor.engine.stream import Outbox, TokenStream
from predictor.errors import EngineFailure, PredictorError

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """A sequence with what turns it into text, and where the text goes."""

    sequence: Sequence
    sampler: Sampler
    detokenizer: Detokenizer
    stream: TokenStream


class Generator:
    """Samples, and hands what was sampled to the outbox.

    Args:
        model: whose tokens they are.
        context: where the logits are.
        outbox: where deltas and errors go.
        observer: told of tokens.
        forget: called when a job has ended: with the reason, or with None after an error.

    Attributes:
        samples: whether a sequence's output is a token.
    """

    samples = True

    def __init__(
        self,
        model: Model,
        context: Context,
        outbox: Outbox,
        observer: EngineObserver,
        forget: Callable[[Job, FinishReason | None], None],
    ) -> None:
        self._model = model
        self._context = context
        self._outbox = outbox
        self._observer = observer
        self._forget = forget

    def advance(self, job: Job, index: int) -> int | None:
        """Sample a sequence's next token and pass its text on; None where that ended the sequence."""
        sequence, params = job.sequence, job.sequence.request.params
        if not sequence.max_tokens:
            self.finish(job, "", FinishReason.LENGTH)
            return None
        distribution = None
        if params.top_logprobs is not None:
            distribution = LogSoftmax(self._context.logits(index), params.top_logprobs, self._model.piece)
        token = self._choose(job, index)
        if token is None:
            return None
        self._note_token(sequence)
        if self._model.is_end(token) and not params.ignore_eos:
            scored = (distribution.of(token),) if distribution and sequence.request.scores_prompt else ()
            self.finish(job, job.detokenizer.flush(), FinishReason.STOP, scored)
            return None
        sequence.tokens.append(token)
        text = job.detokenizer.push(sequence.request.marks.get(token) or self._model.piece(token))
        logprobs = (distribution.of(token),) if distribution else ()
        reason = self._end_reason(job)
        if reason is not None:
            # What was held back as the possible start of a stop string is text after all, unless it was one.
            rest = "" if job.detokenizer.stopped_by else job.detokenizer.flush()
            self.finish(job, text + rest, reason, logprobs)
            return None
        if text or logprobs:
            self._outbox.put(job.stream, self._delta(job, text, None, logprobs))
        return token

    def score(self, job: Job, position: int, index: int) -> None:
        """Pass on the log-probabilities of a prompt's next tokens, the first one's left out.

        Args:
            job: whose sequence's tokens from `position` on were just computed.
            position: in the sequence.
            index: of the token there in the batch; all tokens behind it have logits too.
        """
        sequence = job.sequence
        prompt, top = sequence.request.prompt, sequence.request.params.top_logprobs or 0
        entries = []
        for known in range(sequence.num_scored, min(sequence.num_computed + 1, len(prompt))):
            logits = self._context.logits(index + known - 1 - position)
            entries.append(LogSoftmax(logits, top, self._model.shown_piece).of(prompt[known]))
        sequence.num_scored += len(entries)
        if entries:
            self._outbox.put(job.stream, Delta("", prompt_logprobs=tuple(entries)))

    def _end_reason(self, job: Job) -> FinishReason | None:
        """Why a sequence ends after the token it just got; None where it goes on."""
        sequence, constraint = job.sequence, job.sequence.request.constraint
        if job.detokenizer.stopped_by or (constraint is not None and constraint.must_end):
            return FinishReason.STOP
        return FinishReason.LENGTH if sequence.num_generated >= sequence.max_tokens else None

    def finish(
        self, job: Job, text: str, reason: FinishReason, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """End a job with its last text."""
        self._outbox.put(job.stream, self._delta(job, text, reason, logprobs))
        self._forget(job, reason)

    def fail(self, job: Job, error: Exception) -> None:
        """End a job with an error."""
        self._outbox.put(job.stream, error)
        self._forget(job, None)

    def _choose(self, job: Job, index: int) -> int | None:
        """The sequence's next token; None where its constraint failed, which ends it."""
        constraint = job.sequence.request.constraint
        if constraint is None:
            return job.sampler.sample(self._context, index)
        try:
            # llama.cpp's samplers read the same memory as this view.
            constraint.mask(self._context.logits(index))
            token = job.sampler.sample(self._context, index)
            if not self._model.is_end(token):
                constraint.accept(token)
            return token
        except Exception as error:
            logger.warning("a constraint failed, its sequence is ended: %s", error)
            if not isinstance(error, PredictorError):
                error = EngineFailure(f"the constraint on this answer failed: {error}")
            self.fail(job, error)
            return None

    def _note_token(self, sequence: Sequence) -> None:
        now = time.monotonic()
        gap = now - sequence.last_token if sequence.last_token else None
        sequence.first_token = sequence.first_token or now
        sequence.last_token = now
        self._observer.token_sampled(sequence, now, gap)

    def _delta(
        self, job: Job, text: str, reason: FinishReason | None, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Delta:
        sequence = job.sequence
        stop = job.detokenizer.stopped_by
        return Delta(text, logprobs, sequence.num_generated, reason, sequence.cached_tokens, stop)
