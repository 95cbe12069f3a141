"""The engine as others see it: submit requests on an event loop, read their streams, drain, close."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from predictor.engine.config import EngineConfig, EngineStats
from predictor.engine.decode_loop import DecodeLoop
from predictor.engine.detokenizer import Detokenizer
from predictor.engine.generator import Job
from predictor.engine.infill_tokens import InfillTokens
from predictor.engine.llama import AbortFlag, Model, Sampler
from predictor.engine.llama.openblas import load_openblas, what_is_missing
from predictor.engine.llama.pairs import pair_tokens
from predictor.engine.observer import EngineObserver, GuardedObserver, NoObserver
from predictor.engine.prefix_saver import PrefixSaver
from predictor.engine.request import Request
from predictor.engine.request_checks import RequestChecks
from predictor.engine.sequence import Sequence, unanswered_waits
from predictor.engine.special_tokens import Segment
from predictor.engine.stream import TokenStream
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import (
    EngineFailure,
    InvalidRequest,
    ModelLoadError,
    NotReady,
    PredictorError,
    QueueFull,
)

logger = logging.getLogger(__name__)

# How long `close` waits for who works with the vocabulary.
HOLD_SECONDS = 2


class Engine:
    """Runs many sequences on one model at once.

    The constructor loads the model and computes one token with it, which takes from a fraction of a second to
    minutes; afterwards the engine is ready.

    Args:
        config: what to load and how.
        observer: told what happens, for metrics and traces.

    Attributes:
        model: the weights and the vocabulary.
        failure: set when the decode thread failed; nothing is served any more then.

    Raises:
        ModelLoadError: the model can't be loaded or can't generate text.
    """

    def __init__(self, config: EngineConfig, observer: EngineObserver | None = None) -> None:
        self.config = config
        self._observer = GuardedObserver(observer) if observer else NoObserver()
        self._closing = AbortFlag()
        self._wake = threading.Condition()
        self._inbox: deque[tuple[Job, bool]] = deque()
        self._unfinished = 0
        self._vocabulary_users = 0
        self._closed = False
        self._request_seconds = 0.0
        self._draining = False
        self._end: PredictorError | None = None
        self.failure: EngineFailure | None = None
        if config.openblas:
            if load_openblas():
                logger.info("prompts are read with OpenBLAS")
            else:
                logger.info("prompts are read without OpenBLAS: %s", what_is_missing())
        self.model = _load(config)
        if not self.model.can_generate:
            raise ModelLoadError(f"{config.model_path} has no decoder: it can't generate text")
        self._store = config.prefix_store
        self._saver = PrefixSaver(self._store, self._tell) if self._store else None
        made: Future[DecodeLoop] = Future()
        self._thread = threading.Thread(target=self._run, args=(made,), name="decode", daemon=True)
        self._thread.start()
        self._loop = made.result()
        self._checks = RequestChecks(
            config,
            self.model,
            max_sequence_tokens=self._loop.max_sequence_tokens,
            whole_prompts=self._loop.whole_prompts,
        )

    @property
    def warm_up_seconds(self) -> float:
        """The part of the constructor's time that the first decode took."""
        return self._loop.warm_up_seconds

    @property
    def context_tokens(self) -> int:
        """Tokens that fit into the KV cache."""
        return self._loop.context_tokens

    @property
    def max_sequence_tokens(self) -> int:
        """The longest a sequence may get, prompt and answer."""
        return self._loop.max_sequence_tokens

    @property
    def embedding_size(self) -> int:
        """Numbers in a vector, where the engine makes any."""
        return self.model.embedding_size

    def stats(self) -> EngineStats:
        """Figures at this moment."""
        stats = self._loop.stats()
        with self._wake:
            arriving = [job.sequence for job, start in self._inbox if start]
        waits = unanswered_waits(arriving)
        return replace(stats, waiting=stats.waiting + len(arriving), unanswered=stats.unanswered + waits)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text; see `Model.tokenize`."""
        return self.model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def tokenize_segments(
        self, segments: Collection[Segment], *, add_special: bool, markers: frozenset[int] = frozenset()
    ) -> list[int]:
        """Token ids of a prompt by its segments; see `Model.tokenize_segments`."""
        return self.model.tokenize_segments(segments, add_special=add_special, markers=markers)

    def infill_tokens(self) -> InfillTokens | None:
        """The control tokens for filling gaps; see `Model.infill_tokens`."""
        return self.model.infill_tokens()

    def markers(self, source: str) -> frozenset[int]:
        """See `Model.markers`."""
        return self.model.markers(source)

    def check_count(self, requests: int) -> None:
        """Refuse more requests than can ever be taken together; see `RequestChecks.check_count`."""
        self._checks.check_count(requests)

    def check_length(self, characters: int, param: str) -> None:
        """Refuse a text that can't fit whatever its tokens are; see `RequestChecks.check_length`."""
        self._checks.check_length(characters, param)

    def detokenize(self, tokens: Collection[int], param: str) -> str:
        """The text of tokens; see `Model.detokenize`.

        Raises:
            InvalidRequest: one is outside the vocabulary.
        """
        self._checks.check_tokens(tokens, param)
        return self.model.detokenize(tokens)

    def shown_pieces(self, tokens: Collection[int], param: str) -> list[bytes]:
        """The bytes of each token of a prompt; see `Model.shown_piece`.

        Raises:
            InvalidRequest: one is outside the vocabulary.
        """
        self._checks.check_tokens(tokens, param)
        return [self.model.shown_piece(token) for token in tokens]

    def tokenize_pair(self, query: str, document: str) -> list[int]:
        """Token ids of a query and a document for a reranker; see `pair_tokens`."""
        return pair_tokens(self.model, query, document)

    def control_tokens(self, texts: Iterable[str]) -> dict[int, bytes]:
        """The control tokens in some texts; see `Model.control_tokens`."""
        return self.model.control_tokens(texts)

    def vocabulary(self) -> Vocabulary:
        """All tokens of the model; see `Model.vocabulary`."""
        return self.model.vocabulary()

    @contextmanager
    def hold_vocabulary(self) -> Iterator[None]:
        """Keep the model in memory while something works with the vocabulary's addresses.

        Raises:
            NotReady: the engine is closed.
        """
        with self._wake:
            if self._closed:
                raise NotReady("the server is shutting down; send the request to another replica")
            self._vocabulary_users += 1
        try:
            yield
        finally:
            with self._wake:
                self._vocabulary_users -= 1
                self._wake.notify_all()

    def submit_all(self, requests: Collection[Request]) -> list[TokenStream]:
        """Start requests together, all or none; must be called on the event loop that reads the streams.

        Raises:
            InvalidRequest: a request can never be served; PromptTooLong where it is its length.
            QueueFull: too many requests are waiting.
            NotReady: the engine is shutting down.
        """
        try:
            jobs = self._admit(requests)
        except PredictorError as error:
            self._observer.refused(len(requests), _refusal(error))
            raise
        self._start(jobs)
        return [job.stream for job in jobs]

    def _start(self, jobs: list[Job]) -> None:
        """Give the decode thread jobs, unless it ended since they were admitted."""
        with self._wake:
            if self._end is None:
                self._inbox.extend((job, True) for job in jobs)
                self._wake.notify()
                return
        for job in jobs:
            job.sampler.close()
        self._release_places(len(jobs))
        raise self._end

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for the running ones.

        Returns:
            False when some were still running after so many seconds.
        """
        self._draining = True
        deadline = time.monotonic() + seconds
        while self._unfinished and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self._unfinished == 0

    def abort(self) -> None:
        """End the unfinished streams with NotReady within milliseconds and take nothing new.

        The model stays until `close`, since requests may be tokenizing with it.
        """
        self._draining = True
        self._closing.set()
        self._tell()

    def close(self) -> None:
        """Abort and free everything, once nobody holds the vocabulary; nobody may use the engine any more.

        Where somebody holds it for long, the model isn't freed: the process is about to end anyway.
        """
        self.abort()
        self._thread.join()
        with self._wake:
            self._closed = True
            unused = self._wake.wait_for(lambda: not self._vocabulary_users, HOLD_SECONDS)
        if unused:
            self.model.close()
        else:
            logger.warning("a text or a grammar still uses the vocabulary, so the model stays in memory")

    def _admit(self, requests: Collection[Request]) -> list[Job]:
        # The choices of one prompt share it, and a long one must not be checked for each of them.
        for request in {(id(request.prompt), request.adapter): request for request in requests}.values():
            self._checks.check(request)
        self._reserve_places(len(requests))
        jobs: list[Job] = []
        try:
            jobs.extend(self._new_job(request) for request in requests)
        except InvalidRequest:
            for job in jobs:
                job.sampler.close()
            self._release_places(len(requests))
            raise
        return jobs

    def _reserve_places(self, count: int) -> None:
        self._checks.check_count(count)
        places = self._checks.places
        with self._wake:
            if self._draining:
                raise NotReady("the server is shutting down; send the request to another replica")
            if self._unfinished + count > places:
                raise QueueFull(
                    f"the queue is full: {self._unfinished} running or waiting, and {places} is the limit; "
                    "try again later",
                    retry_after=self._retry_after(),
                )
            self._unfinished += count

    def _retry_after(self) -> int:
        """Seconds until about a full batch of requests is done."""
        return min(60, max(1, math.ceil(self._request_seconds)))

    def _release_places(self, count: int) -> None:
        with self._wake:
            self._unfinished -= count

    def _count_out(self, job: Job) -> None:
        took = time.monotonic() - job.sequence.arrived
        self._request_seconds += 0.1 * (took - self._request_seconds)
        self._release_places(1)

    def _new_job(self, request: Request) -> Job:
        params = request.params
        room = self.max_sequence_tokens - len(request.prompt)
        wanted = room if params.max_tokens is None else min(params.max_tokens, room)
        most = 0 if self.config.pooling is not None else wanted
        sequence = Sequence(request, most)
        sampler = Sampler(self.model, params, request.prompt)
        stream = TokenStream(asyncio.get_running_loop(), lambda: self._tell((job, False)))
        job = Job(sequence, sampler, Detokenizer(params.stop), stream)
        return job

    def _tell(self, *commands: tuple[Job, bool]) -> None:
        """Give the decode thread jobs to start (True) or to cancel (False), and wake it."""
        with self._wake:
            self._inbox.extend(commands)
            self._wake.notify()

    def _run(self, made: Future[DecodeLoop]) -> None:
        """The decode thread."""
        try:
            loop = self._make_loop()
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(loop)
        try:
            while self._take_commands(loop):
                loop.step()
                if not loop.has_work:
                    loop.send()
                if self._saver is not None:
                    self._saver.advance(loop)
        except Exception as error:
            logger.exception("the decode thread failed")
            self.failure = EngineFailure(f"the engine failed: {error}")
        finally:
            self._wind_up(loop)

    def _make_loop(self) -> DecodeLoop:
        """The loop, made where it runs.

        OpenMP keeps helpers for every thread that computed; with more of them than cores, all sleep between
        two operations instead of spinning, which took 10.5 instead of 6.4 ms a token.
        """
        loop = DecodeLoop(self.model, self.config, self._closing, self._count_out, self._observer)
        if self._store is not None:
            loop.remember(self._store.load())
        return loop

    def _wind_up(self, loop: DecodeLoop) -> None:
        self._closing.set()
        with self._wake:
            self._draining = True
            # From here on nothing comes into the inbox that would have to be ended.
            self._end = self.failure or NotReady("the server was shut down before the request was done")
        self._take_commands(loop)
        loop.end_all(self._end)
        try:
            if self._saver is not None and self.failure is None:
                self._saver.finish(loop)
        except Exception:
            logger.exception("prefixes could not be saved at the end")
        loop.close()

    def _take_commands(self, loop: DecodeLoop) -> bool:
        """Start and cancel jobs, waiting a while when there is nothing to do; False on closing."""
        with self._wake:
            while not (self._inbox or loop.has_work or self._closing.is_set()):
                if self._saver is not None and self._saver.has_work:
                    break
                self._wake.wait(None if self._saver is None else self._saver.idle_seconds)
            commands = list(self._inbox)
            self._inbox.clear()
        for job, start in commands:
            if start:
                loop.start(job)
            else:
                loop.cancel(job)
        return not self._closing.is_set()


def _refusal(error: PredictorError) -> str:
    if isinstance(error, QueueFull):
        return "queue_full"
    return "shutting_down" if isinstance(error, NotReady) else "invalid"


def _load(config: EngineConfig) -> Model:
    """The model, loaded on a thread that ends with it.

    Rearranging weights for AMX leaves OpenMP's helpers with the thread that loaded them, beside those of the
    decode thread.
    """
    load = partial(
        Model,
        config.model_path,
        gpu_layers=config.gpu_layers,
        use_mmap=config.use_mmap,
        use_mlock=config.use_mlock,
    )
    with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
        return loader.submit(load).result()
