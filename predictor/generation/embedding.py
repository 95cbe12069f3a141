"""Texts in, vectors or scores out: what every protocol calls for embedding and reranking models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from predictor.background import stop_if_abandoned
from predictor.engine.config import Pooling
from predictor.engine.request import Request, SamplingParams
from predictor.errors import InvalidRequest, WrongTask
from predictor.generation.streams import RequestStream
from predictor.generation.tokens import TokenEngine, long_texts

Vector = npt.NDArray[np.float32]

MAX_TEXTS = 2048
"""Texts in one call; OpenAI's own limit."""

MAX_QUERY_CHARACTERS = 16 * 2**20
"""Of a query, times the documents it is read with."""

# An embedding samples nothing; greedy parameters need no sampler.
_NO_SAMPLING = SamplingParams(max_tokens=1, temperature=0)


class PoolingEngine(TokenEngine, Protocol):
    """The part of `predictor.engine.Engine` that embedding needs."""

    @property
    def embedding_size(self) -> int: ...

    def tokenize_pair(self, query: str, document: str) -> list[int]: ...

    def submit_all(self, requests: Sequence[Request]) -> Sequence[RequestStream]: ...


@dataclass(frozen=True, slots=True)
class Embedding:
    """What a model made of one text.

    Attributes:
        vector: of length 1, or the outputs of a reranker's head as they are.
        tokens: of the text.
    """

    vector: Vector
    tokens: int


class TextEmbedder:
    """Embeds and ranks with one model.

    Args:
        name: the model's name in every protocol.
        engine: runs the sequences, with `pooling`.
        pooling: what makes a vector of a text.
        group: how many texts of one call are given to the engine at a time.
    """

    def __init__(self, name: str, engine: PoolingEngine, pooling: Pooling, *, group: int) -> None:
        self.name = name
        self.engine = engine
        self.is_reranker = pooling is Pooling.RANK
        self._group = group

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokens of a text, with those that the model wants around it.

        Raises:
            InvalidRequest: the text is empty, or too long whatever its tokens are.
        """
        (tokens,) = await self.tokenize_all([text])
        return tokens

    async def tokenize_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of several texts, in their order.

        Raises:
            InvalidRequest: there are too many, or one is empty.
        """
        check_count(len(texts), "input")
        if not all(texts):
            raise InvalidRequest("the input is empty; send at least one character", param="input")
        return await long_texts.run(self._tokens_of_all, texts)

    def _tokens_of_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        with self.engine.hold_vocabulary():
            return [self._tokens(text) for text in texts]

    def _tokens(self, text: str) -> tuple[int, ...]:
        stop_if_abandoned()
        self.engine.check_length(len(text), "input")
        return tuple(self.engine.tokenize(text, add_special=True, parse_special=True))

    async def embed(
        self, inputs: Sequence[tuple[int, ...]], request_id: str, dimensions: int | None = None
    ) -> list[Embedding]:
        """Vectors of length 1 for token sequences, in their order.

        Args:
            inputs: the sequences.
            request_id: for logs.
            dimensions: how many of a vector's first numbers to keep, None for all: models trained for it say
                the most in the first ones (Kusupati et al., 2022, Matryoshka Representation Learning).

        Raises:
            WrongTask: the model is a reranker.
            InvalidRequest: an input is empty or too long, or there are fewer dimensions.
            Unavailable: the queue is full, or the engine isn't ready.
            EngineFailure: llama.cpp failed.
        """
        if self.is_reranker:
            raise WrongTask(f"model {self.name!r} is a reranker: use /v1/rerank", param="model")
        if dimensions is not None and dimensions > self.engine.embedding_size:
            raise InvalidRequest(
                f"the model's embeddings have {self.engine.embedding_size} dimensions, and so at most that "
                f"many can be kept, not {dimensions}",
                param="dimensions",
            )
        return [
            Embedding(_unit(vector[:dimensions]), len(tokens))
            for vector, tokens in zip(await self._run(inputs, request_id), inputs, strict=True)
        ]

    async def score(self, query: str, documents: Sequence[str], request_id: str) -> list[Embedding]:
        """The head's outputs for each document, in their order; the first is how well it answers the query.

        Raises:
            WrongTask: the model isn't a reranker.
            InvalidRequest: a document is too long together with the query.
            Unavailable: the queue is full, or the engine isn't ready.
            EngineFailure: llama.cpp failed.
        """
        if not self.is_reranker:
            raise WrongTask(
                f"model {self.name!r} gives embeddings: rerank with a reranking model, or compare the "
                "vectors of /v1/embeddings",
                param="model",
            )
        check_count(len(documents), "documents")
        if len(query) * len(documents) > MAX_QUERY_CHARACTERS:
            raise InvalidRequest(
                f"a query of {len(query)} characters, read with each of {len(documents)} documents, is too "
                "much: split the call",
                param="query",
            )
        pairs = await long_texts.run(self._pairs, query, documents)
        vectors = await self._run(pairs, request_id)
        return [Embedding(vector, len(pair)) for vector, pair in zip(vectors, pairs, strict=True)]

    def _pairs(self, query: str, documents: Sequence[str]) -> list[tuple[int, ...]]:
        with self.engine.hold_vocabulary():
            return [self._pair(query, document) for document in documents]

    def _pair(self, query: str, document: str) -> tuple[int, ...]:
        stop_if_abandoned()
        self.engine.check_length(len(query) + len(document), "documents")
        return tuple(self.engine.tokenize_pair(query, document))

    async def _run(self, inputs: Sequence[tuple[int, ...]], request_id: str) -> list[Vector]:
        """All vectors, a group after the other: a large call must not fill the queue by itself."""
        several = len(inputs) > 1
        requests = [
            Request(f"{request_id}-{i}" if several else request_id, tokens, _NO_SAMPLING)
            for i, tokens in enumerate(inputs)
        ]
        vectors: list[Vector] = []
        for start in range(0, len(requests), self._group):
            streams = self.engine.submit_all(requests[start : start + self._group])
            try:
                vectors += await asyncio.gather(*map(_vector, streams))
            finally:
                for stream in streams:
                    stream.cancel()
        return vectors


def check_count(texts: int, param: str) -> None:
    """Refuse more texts than one call may bring.

    Raises:
        InvalidRequest: there are more.
    """
    if texts > MAX_TEXTS:
        raise InvalidRequest(
            f"{param} has {texts} texts, at most {MAX_TEXTS} fit: split the call", param=param
        )


async def _vector(stream: RequestStream) -> Vector:
    async for delta in stream:
        if delta.vector is not None:
            return delta.vector
    raise AssertionError("the engine ended a sequence without its vector")


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector
