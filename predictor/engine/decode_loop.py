"""What the decode thread does: it alone owns the model's context."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Collection
from dataclasses import dataclass
from functools import partial

from predictor.engine.config import DEFAULT_CONTEXT_TOKENS, EngineConfig, EngineStats
from predictor.engine.detokenizer import Detokenizer
from predictor.engine.host_cache import HostCache, Prefix, SavedPrefix
from predictor.engine.llama import (
    Batch,
    Context,
    ContextParams,
    DecodeAbortedError,
    KVCacheFullError,
    Model,
    Sampler,
)
from predictor.engine.logprobs import LogSoftmax
from predictor.engine.observer import EngineObserver
from predictor.engine.pacing import PrefillPacer
from predictor.engine.prefix_cache import (
    WORTH_SAVING_TOKENS,
    CopyCells,
    PrefixCache,
    RemoveCells,
    RestoreCells,
    SaveCells,
)
from predictor.engine.prefix_store import BadPrefixFileError
from predictor.engine.request import Delta, FinishReason, TokenLogprob
from predictor.engine.scheduler import Chunk, Scheduler
from predictor.engine.sequence import Sequence
from predictor.engine.stream import Item, TokenStream, deliver
from predictor.errors import EngineFailure, PredictorError

logger = logging.getLogger(__name__)

# Ids beyond the running sequences hold finished ones for their prefixes; llama.cpp allows 256 in all.
RETAINED_SEQUENCES = 64
# Cells that only wait for a later request slow every decode down, so beyond these they move to memory.
RETAINED_CELLS = 256


@dataclass(slots=True, eq=False)
class Job:
    """A sequence with what turns it into text, and where the text goes."""

    sequence: Sequence
    sampler: Sampler
    detokenizer: Detokenizer
    stream: TokenStream


class DecodeLoop:
    """Schedule, decode, sample, deliver: one `step` after the other, all on one thread.

    Args:
        model: stays the caller's, and must outlive the loop.
        config: sizes and threads.
        should_abort: True stops a decode in the middle.
        on_end: called when a job has ended, whatever way.
        observer: told of tokens and ends.

    Raises:
        ModelLoadError: llama.cpp can't make the context.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        should_abort: Callable[[], bool],
        on_end: Callable[[Job], None],
        observer: EngineObserver,
    ) -> None:
        self.model = model
        self.context_tokens = config.context_tokens or min(model.trained_context, DEFAULT_CONTEXT_TOKENS)
        ids = config.max_sequences + (RETAINED_SEQUENCES if model.can_cut_prefix else 0)
        params = ContextParams(
            context_tokens=self.context_tokens,
            batch_tokens=config.max_batch_tokens,
            sequences=ids,
            threads=config.threads,
            batch_threads=config.batch_threads,
            flash_attention=config.flash_attention,
            cache_type=config.cache_type,
        )
        self._context = Context(model, params, should_abort)
        self._batch = Batch(config.max_batch_tokens)
        self._scheduler = Scheduler(
            PrefixCache(
                self.context_tokens,
                ids,
                reuse=model.can_cut_prefix,
                max_retained=RETAINED_CELLS,
                save=config.host_cache_bytes > 0,
            ),
            HostCache(config.host_cache_bytes),
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
        )
        self._pacer = PrefillPacer(config.max_step_seconds)
        self._on_end = on_end
        self._observer = observer
        self._jobs: dict[Sequence, Job] = {}
        self._outbox: defaultdict[asyncio.AbstractEventLoop, list[tuple[TokenStream, Item]]]
        self._outbox = defaultdict(list)
        self._steps = self._prompt_tokens = self._generated_tokens = 0
        self._decode_seconds = self._step_seconds = 0.0
        self._context.warm_up(model.end_tokens[0] if model.end_tokens else 0, self._batch)

    @property
    def has_work(self) -> bool:
        """Whether any job is waiting or running."""
        return self._scheduler.has_work

    def start(self, job: Job) -> None:
        """Queue a job."""
        self._jobs[job.sequence] = job
        self._scheduler.add(job.sequence)

    def cancel(self, job: Job) -> None:
        """End a job and free its cells; nothing happens if it has ended already."""
        if job.sequence in self._jobs:
            self._finish(job, "", FinishReason.CANCELLED)

    def end_all(self, error: Exception) -> None:
        """End every job with an error, for good: cells don't count any more."""
        for job in self._jobs.values():
            self._put(job, error)
            self._release(job, None)
        self._jobs.clear()
        self.send()

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def remember(self, prefixes: Iterable[Prefix]) -> None:
        """Take prefixes over from an earlier process, the longest unused first."""
        for prefix in prefixes:
            self._scheduler.host.add(prefix)

    def prefixes(self) -> list[Prefix]:
        """Everything that later requests could reuse, the most recently used first."""
        self._carry_out_operations()
        retained = [
            SavedPrefix(saving.tokens, self._context.save(saving.sequence_id))
            for saving in self._scheduler.cache.retained()
        ]
        return [*reversed(retained), *reversed(list(self._scheduler.host))]

    def stats(self) -> EngineStats:
        """Figures now; may be called from any thread."""
        scheduler = self._scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_used=scheduler.cache.used,
            kv_capacity=scheduler.cache.capacity,
            kv_pinned=scheduler.cache.pinned,
            host_cache_bytes=scheduler.host.used_bytes,
            steps=self._steps,
            decode_seconds=self._decode_seconds,
            step_seconds=self._step_seconds,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            prefix_queried_tokens=scheduler.cache.queried_tokens,
            prefix_hit_tokens=scheduler.cache.hit_tokens,
            preemptions=scheduler.num_preemptions,
        )

    def step(self) -> None:
        """Compute and sample once for every running sequence.

        What was sampled goes out with the next step, or by `send` where there is none.
        """
        started = time.perf_counter()
        chunks = self._scheduler.schedule(self._pacer.budget)
        self._carry_out_operations()
        # One whose saved state could not be read has lost its place.
        chunks = [chunk for chunk in chunks if chunk.sequence.sequence_id >= 0]
        if not chunks:
            self.send()
            return
        outputs = self._fill_batch(chunks)
        seconds = self._decode(chunks)
        if seconds is None:
            return
        decoded = sum(chunk.sequence.is_decoding for chunk in chunks)
        self._pacer.observe(decode_tokens=decoded, prefill_tokens=self._batch.size - decoded, seconds=seconds)
        self._scheduler.commit(chunks)
        for job, index in outputs:
            self._advance(job, index)
        self._steps += 1
        self._prompt_tokens += self._batch.size - decoded
        self._generated_tokens += len(outputs)
        self._decode_seconds += seconds
        self._step_seconds += time.perf_counter() - started

    def _carry_out_operations(self) -> None:
        for operation in self._scheduler.cache.take_operations():
            match operation:
                case CopyCells(source, target, start, end):
                    self._context.copy(source, target, start, end)
                case RemoveCells(sequence_id, start, end):
                    self._context.remove(sequence_id, start, end)
                case SaveCells(sequence_id, tokens):
                    self._save(sequence_id, tokens)
                case RestoreCells(sequence_id, saved, length):
                    self._restore(sequence_id, saved, length)

    def _save(self, sequence_id: int, tokens: list[int]) -> None:
        host = self._scheduler.host
        known, shared = host.match(tokens)
        if known is not None and len(tokens) - shared < WORTH_SAVING_TOKENS:
            host.touch(known)
        else:
            host.add(SavedPrefix(tokens, self._context.save(sequence_id)))

    def _restore(self, sequence_id: int, saved: Prefix, length: int) -> None:
        try:
            if self._context.restore(sequence_id, saved.read()):
                self._context.remove(sequence_id, length)
                return
            reason = "llama.cpp refuses it"
        except BadPrefixFileError as error:
            reason = str(error)
        logger.warning("a saved prefix of %d tokens is computed again: %s", len(saved.tokens), reason)
        self._scheduler.host.discard(saved)
        self._scheduler.restart(sequence_id)

    def _fill_batch(self, chunks: Collection[Chunk]) -> list[tuple[Job, int]]:
        """Write the chunks into the batch; returns whose logits will be at which index."""
        self._batch.clear()
        outputs = []
        for chunk in chunks:
            sequence = chunk.sequence
            index = self._batch.add(
                sequence.tokens[chunk.start : chunk.end],
                chunk.start,
                sequence.sequence_id,
                logits=chunk.completes,
            )
            if chunk.completes:
                outputs.append((self._jobs[sequence], index))
        return outputs

    def _decode(self, chunks: Collection[Chunk]) -> float | None:
        """Compute the batch; returns the seconds it took, None when it wasn't computed."""
        # Readers wake up now and not when their tokens were sampled: from here on this thread needs no GIL.
        self.send()
        started = time.perf_counter()
        try:
            self._context.decode(self._batch)
        except DecodeAbortedError:
            return None
        except KVCacheFullError:
            # The scheduler counts cells exactly, so only models with caches of another kind come here.
            if len(self._scheduler.running) > 1:
                self._scheduler.preempt()
            else:
                self._end(chunks, EngineFailure("the KV cache can't hold this sequence"))
            return None
        except EngineFailure as error:
            logger.error("a decode failed, its %d sequences are ended: %s", len(chunks), error)
            self._end(chunks, error)
            return None
        return time.perf_counter() - started

    def _advance(self, job: Job, index: int) -> None:
        """Sample a sequence's next token and pass its text on."""
        sequence, params = job.sequence, job.sequence.request.params
        distribution = None
        if params.top_logprobs is not None:
            distribution = LogSoftmax(self._context.logits(index), params.top_logprobs, self.model.piece)
        token = self._choose(job, index)
        if token is None:
            return
        self._note_token(sequence)
        if self.model.is_end(token) and not params.ignore_eos:
            self._finish(job, job.detokenizer.flush(), FinishReason.STOP)
            return
        sequence.tokens.append(token)
        text = job.detokenizer.push(self.model.piece(token))
        logprobs = (distribution.of(token),) if distribution else ()
        if job.detokenizer.stopped_by:
            self._finish(job, text, FinishReason.STOP, logprobs)
        elif (constraint := sequence.request.constraint) is not None and constraint.must_end:
            self._finish(job, text + job.detokenizer.flush(), FinishReason.STOP, logprobs)
        elif sequence.num_generated >= sequence.max_tokens:
            self._finish(job, text + job.detokenizer.flush(), FinishReason.LENGTH, logprobs)
        elif text or logprobs:
            self._put(job, self._delta(job, text, None, logprobs))

    def _choose(self, job: Job, index: int) -> int | None:
        """The sequence's next token; None where its constraint failed, which ends it."""
        constraint = job.sequence.request.constraint
        if constraint is None:
            return job.sampler.sample(self._context, index)
        try:
            # llama.cpp's samplers read the same memory as this view.
            constraint.mask(self._context.logits(index))
            token = job.sampler.sample(self._context, index)
            if not self.model.is_end(token):
                constraint.accept(token)
            return token
        except Exception as error:
            logger.warning("a constraint failed, its sequence is ended: %s", error)
            if not isinstance(error, PredictorError):
                error = EngineFailure(f"the constraint on this answer failed: {error}")
            self._put(job, error)
            self._forget(job, None)
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

    def _finish(
        self, job: Job, text: str, reason: FinishReason, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        self._put(job, self._delta(job, text, reason, logprobs))
        self._forget(job, reason)

    def _end(self, chunks: Collection[Chunk], error: Exception) -> None:
        """End the sequences of a failed batch; their cells can't be trusted."""
        for chunk in chunks:
            job = self._jobs[chunk.sequence]
            self._put(job, error)
            self._forget(job, None)

    def _forget(self, job: Job, reason: FinishReason | None) -> None:
        """Free what a job holds; after an error (no reason) its cells can't be trusted."""
        self._scheduler.finish(job.sequence, retain=reason is not None)
        del self._jobs[job.sequence]
        self._release(job, reason)

    def _release(self, job: Job, reason: FinishReason | None) -> None:
        job.sampler.close()
        self._observer.ended(job.sequence, reason, time.monotonic())
        self._on_end(job)

    def _put(self, job: Job, item: Item) -> None:
        self._outbox[job.stream.loop].append((job.stream, item))

    def send(self) -> None:
        """Wake each event loop once for all that a step produced for it."""
        for loop, items in self._outbox.items():
            try:
                loop.call_soon_threadsafe(partial(deliver, items))
            except RuntimeError:
                logger.debug("the reader's event loop is closed; its %d deltas are dropped", len(items))
        self._outbox.clear()
