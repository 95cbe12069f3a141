"""What the decode thread does: it alone owns the model's context."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Collection

from predictor.engine.adapter_turns import AdapterTurns
from predictor.engine.cell_keeper import CellKeeper
from predictor.engine.config import EngineConfig, EngineStats
from predictor.engine.generator import Generator, Job
from predictor.engine.host_cache import HostCache, Prefix
from predictor.engine.layout import RETAINED_CELLS, make_kv_cache, make_speculator, plan_layout
from predictor.engine.llama import (
    AbortFlag,
    Adapter,
    Batch,
    Context,
    DecodeAbortedError,
    KVCacheFullError,
    Model,
)
from predictor.engine.observer import EngineObserver
from predictor.engine.pacing import PrefillPacer
from predictor.engine.past import Past
from predictor.engine.pooler import Pooler
from predictor.engine.request import Delta, FinishReason, PromptProgress
from predictor.engine.resume_points import ResumePoints
from predictor.engine.scheduler import Chunk, Scheduler
from predictor.engine.sequence import Sequence, unanswered_waits
from predictor.engine.slot_cache import Cuts
from predictor.engine.step_cost import StepCost
from predictor.engine.stream import Outbox
from predictor.errors import EngineFailure, ModelLoadError

logger = logging.getLogger(__name__)


class DecodeLoop:
    """Schedule, decode, sample, deliver: one `step` after the other, all on one thread.

    Args:
        model: stays the caller's, and must outlive the loop.
        config: sizes and threads.
        abort: stops a decode in the middle.
        on_end: called when a job has ended, whatever way.
        observer: told of tokens and ends.

    Attributes:
        warm_up_seconds: what the first decode, before any request, took.

    Raises:
        ModelLoadError: llama.cpp can't make the context, or the model can't take guessed tokens back.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        abort: AbortFlag,
        on_end: Callable[[Job], None],
        observer: EngineObserver,
    ) -> None:
        self.model = model
        layout = plan_layout(model, config)
        self.context_tokens = layout.params.context_tokens
        self.max_sequence_tokens = layout.max_sequence_tokens
        self._step_cost = StepCost()
        self._speculator = make_speculator(model, config, layout, self._step_cost, abort)
        self.whole_prompts = layout.whole_prompts
        # Before the context, which allocates for the adapters that there are.
        self._adapters = {
            name: Adapter(model, adapter.path, adapter.scale) for name, adapter in config.adapters.items()
        }
        self._context = Context(model, layout.params, abort)
        if self._speculator is not None and not self._context.takes_back(config.draft_tokens):
            self.close()
            raise ModelLoadError(
                f"{config.model_path} can't take guessed tokens back: serve it without speculative decoding"
            )
        self._batch = Batch(config.max_batch_tokens)
        host = HostCache(config.host_cache_bytes, layout.past)
        cuts = Cuts(layout.past, self._context.least_length, host.point)
        most_retained = RETAINED_CELLS if config.host_cache_bytes else None
        cache = make_kv_cache(config, layout, cuts, most_retained=most_retained)
        keeps = layout.reusable and layout.past is not Past.ALL and config.host_cache_bytes > 0
        self._cells = CellKeeper(self._context, cache, host)
        self._scheduler = Scheduler(
            cache,
            host,
            self._cells.restore,
            max_sequences=config.max_sequences,
            max_batch_tokens=config.max_batch_tokens,
            turns=AdapterTurns() if self._adapters else None,
            whole_prompts=self.whole_prompts,
            points=ResumePoints(model.is_control) if keeps else None,
            max_outputs=layout.params.outputs,
        )
        self._pacer = PrefillPacer(
            self._step_cost, config.max_step_seconds, most_tokens=config.max_batch_tokens
        )
        self._on_end = on_end
        self._observer = observer
        self._jobs: dict[Sequence, Job] = {}
        self._outbox = Outbox()
        make_output = Generator if config.pooling is None else Pooler
        self._generator = make_output(model, self._context, self._outbox, observer, self._forget)
        self._ended = False
        self._steps = self._prompt_tokens = self._generated_tokens = 0
        self._decode_seconds = self._step_seconds = 0.0
        started = time.perf_counter()
        self._context.warm_up(model.end_tokens[0] if model.end_tokens else 0, self._batch)
        self.warm_up_seconds = time.perf_counter() - started

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
            self._generator.finish(job, "", FinishReason.CANCELLED)

    def end_all(self, error: Exception) -> None:
        """End every job with an error, for good: cells don't count any more."""
        self._ended = True
        for job in self._jobs.values():
            self._outbox.put(job.stream, error)
            self._release(job, None)
        self._jobs.clear()
        self.send()

    def close(self) -> None:
        """Free the context, and what guesses."""
        self._context.close()
        if self._speculator is not None:
            self._speculator.close()

    def remember(self, prefixes: Iterable[Prefix]) -> None:
        """Take prefixes over from an earlier process, the longest unused first."""
        for prefix in prefixes:
            self._scheduler.host.add(prefix)

    def prefixes(self, is_stored: Callable[[Collection[int], str | None], bool]) -> Iterator[Prefix]:
        """Everything that later requests could reuse; see `CellKeeper.prefixes`."""
        return self._cells.prefixes(is_stored)

    def stats(self) -> EngineStats:
        """Figures now; may be called from any thread."""
        return self._stats().at_the_end() if self._ended else self._stats()

    def _stats(self) -> EngineStats:
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
            running_adapters=self._adapters_of(scheduler.running),
            waiting_adapters=self._adapters_of(scheduler.waiting),
            drafted_tokens=self._speculator.drafted_tokens if self._speculator else 0,
            accepted_tokens=self._speculator.accepted_tokens if self._speculator else 0,
            # A copy first, since the decode thread goes on.
            unanswered=unanswered_waits(list(self._jobs)),
        )

    def _adapters_of(self, sequences: Iterable[Sequence]) -> tuple[str, ...]:
        if not self._adapters:
            return ()
        # A copy first, since the decode thread goes on.
        return tuple(sorted({s.adapter for s in list(sequences) if s.adapter is not None}))

    def step(self) -> None:
        """Compute and sample once for every running sequence.

        What was sampled goes out with the next step, or by `send` where there is none.
        """
        started = time.perf_counter()
        chunks = self._with_cells(self._scheduler.schedule(self._pacer.budget))
        if not chunks:
            self.send()
            return
        drafts = self._drafts(chunks)
        outputs = self._fill_batch(chunks, drafts)
        seconds = self._decode(chunks)
        if seconds is None:
            return
        self._observe_step(chunks, seconds)
        self._scheduler.commit(chunks)
        for chunk in chunks:
            sequence = chunk.sequence
            if chunk.end in sequence.stops:
                self._cells.keep_point(sequence.sequence_id, sequence.tokens[: chunk.end], sequence.adapter)
        self._tell_progress(chunks)
        for chunk, index in outputs:
            self._generated_tokens += self._advance_alone(chunk, index, drafts.get(chunk.sequence, []))
        # What ended in this step may be saved for the requests of the next.
        self._cells.carry_out()
        self._steps += 1
        self._decode_seconds += seconds
        self._step_seconds += time.perf_counter() - started

    def _with_cells(self, chunks: Collection[Chunk]) -> list[Chunk]:
        """The chunks whose sequences have the cells before them; the others begin anew with the next step."""
        lost_ids = self._cells.take_lost()
        lost = [s for s in self._scheduler.running if s.sequence_id in lost_ids]
        for sequence in lost:
            self._scheduler.recompute(sequence)
        self._cells.carry_out()
        return [chunk for chunk in chunks if chunk.sequence not in lost]

    def _drafts(self, chunks: Collection[Chunk]) -> dict[Sequence, list[int]]:
        """Guesses to check in this step; none beside prompts, which fill a step by themselves."""
        if self._speculator is None or not all(chunk.sequence.is_decoding for chunk in chunks):
            return {}
        cache = self._scheduler.cache
        room = min(self._batch.capacity, cache.capacity - cache.used) - len(chunks)
        # Guessing may take as long as a step: what was sampled before goes out first.
        self.send()
        return self._speculator.propose(
            [chunk.sequence for chunk in chunks],
            room,
            running=self._scheduler.running,
            seconds=self._pacer.spare_seconds(decode_tokens=len(chunks)),
        )

    def _observe_step(self, chunks: Collection[Chunk], seconds: float) -> None:
        decoding = sum(chunk.sequence.is_decoding for chunk in chunks)
        # Guesses are in the batch too, but only where nothing is prefilled.
        prefilled = self._batch.size - decoding if decoding < len(chunks) else 0
        self._step_cost.observe(
            decode_tokens=self._batch.size - prefilled, prompt_tokens=prefilled, seconds=seconds
        )
        self._prompt_tokens += prefilled

    def _advance_alone(self, chunk: Chunk, index: int, draft: list[int]) -> int:
        """Advance a sequence; whatever fails there costs that sequence and no other."""
        job = self._jobs[chunk.sequence]
        try:
            if chunk.sequence.is_scoring:
                self._generator.score(job, chunk.start, index + chunk.start + 1 - chunk.end)
            return self._advance(job, index, draft) if chunk.completes else 0
        except Exception as error:
            logger.exception("a sequence failed and is ended")
            if job.sequence in self._jobs:
                self._generator.fail(job, EngineFailure(f"this request failed: {error}"))
            return 0

    def _advance(self, job: Job, index: int, draft: list[int]) -> int:
        """Sample a sequence's next token, and one more for every guess that it confirms.

        Args:
            job: whose.
            index: of its last token in the batch; its guesses follow.
            draft: the guesses.

        Returns:
            How many tokens were sampled.
        """
        sequence, sequence_id = job.sequence, job.sequence.sequence_id
        computed, accepted = sequence.num_computed, 0
        token = self._generator.advance(job, index)
        while accepted < len(draft) and token == draft[accepted]:
            self._scheduler.confirm(sequence)
            accepted += 1
            token = self._generator.advance(job, index + accepted)
        if draft and self._speculator is not None:
            self._speculator.judge(sequence, len(draft), accepted)
            # Also where the sequence has ended, since others may take its cells over.
            self._context.remove(sequence_id, computed + accepted)
        return accepted + 1 if self._generator.samples else 0

    def _fill_batch(
        self, chunks: Collection[Chunk], drafts: Mapping[Sequence, list[int]]
    ) -> list[tuple[Chunk, int]]:
        """Write the chunks into the batch, guesses behind their sequence's token.

        Returns:
            The chunks that will have logits, with the batch index of their last token.
        """
        self._batch.clear()
        outputs = []
        # llama.cpp computes slots together as long as each is the last one's neighbour in the batch.
        for chunk in sorted(chunks, key=lambda chunk: chunk.sequence.sequence_id):
            sequence = chunk.sequence
            index = self._batch.add(
                sequence.tokens[chunk.start : chunk.end],
                chunk.start,
                sequence.sequence_id,
                logits=chunk.completes,
                all_logits=sequence.is_scoring,
            )
            if chunk.completes or sequence.is_scoring:
                outputs.append((chunk, index))
            for offset, token in enumerate(drafts.get(sequence, ())):
                self._batch.add([token], chunk.end + offset, sequence.sequence_id, logits=True)
        return outputs

    def _decode(self, chunks: Collection[Chunk]) -> float | None:
        """Compute the batch; returns the seconds it took, None when it wasn't computed."""
        # Readers wake up now and not when their tokens were sampled: from here on this thread needs no GIL.
        self.send()
        started = time.perf_counter()
        try:
            if self._adapters:
                adapter = chunks[0].sequence.adapter
                self._context.use_adapter(self._adapters[adapter] if adapter is not None else None)
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

    def _tell_progress(self, chunks: Collection[Chunk]) -> None:
        """Put into the streams how far prompts have been read, where somebody wants to know."""
        for sequence in (chunk.sequence for chunk in chunks):
            if sequence.request.wants_progress and not sequence.num_generated:
                seconds = time.monotonic() - sequence.admitted
                total, cached = len(sequence.request.prompt), sequence.cached_tokens
                progress = PromptProgress(total, cached, sequence.num_computed, seconds)
                self._outbox.put(self._jobs[sequence].stream, Delta("", progress=progress))

    def _end(self, chunks: Collection[Chunk], error: Exception) -> None:
        """End the sequences of a failed batch; their cells can't be trusted."""
        for chunk in chunks:
            self._generator.fail(self._jobs[chunk.sequence], error)

    def _forget(self, job: Job, reason: FinishReason | None) -> None:
        """Free what a job holds; after an error (no reason) its cells can't be trusted."""
        self._scheduler.finish(job.sequence, retain=reason is not None)
        del self._jobs[job.sequence]
        self._release(job, reason)

    def _release(self, job: Job, reason: FinishReason | None) -> None:
        job.sampler.close()
        self._observer.ended(job.sequence, reason, time.monotonic())
        self._on_end(job)

    def send(self) -> None:
        """Wake the readers of what was sampled."""
        self._outbox.send()
