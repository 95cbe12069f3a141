"""Embeddings in OpenAI's form, and reranking in the form of Jina, Cohere and llama-server.

Sources: https://platform.openai.com/docs/api-reference/embeddings and https://jina.ai/reranker
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, FailFast, Field
from starlette.responses import Response

from predictor.api.http.fields import WHOLE, Text, is_unicode
from predictor.api.http.middleware import current_request_id
from predictor.errors import InvalidRequest
from predictor.generation.embedding import MAX_TEXTS, Embedding, TextEmbedder, check_count
from predictor.generation.served_models import ServedModels


class EmbeddingsRequest(BaseModel):
    """Body of `POST /v1/embeddings`. `input` is a text, a list of texts, token ids or a list of these."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input: Any
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = None

    def inputs(self) -> list[str | tuple[int, ...]]:
        """The inputs, each a text or token ids.

        Raises:
            InvalidRequest: `input` has another form.
        """
        value = self.input
        single = isinstance(value, str) or (isinstance(value, list) and value and _all_tokens(value))
        items = [value] if single else value
        if not isinstance(items, list) or not items:
            raise _bad_input()
        check_count(len(items), "input")
        return [_one_input(item) for item in items]


class TextDocument(BaseModel):
    """A document as an object, as Cohere and Jina have it."""

    text: Text


class RerankRequest(BaseModel):
    """Body of `POST /v1/rerank`."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    query: Annotated[Text, Field(min_length=1)]
    documents: Annotated[list[Text | TextDocument], FailFast(), Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1), WHOLE] | None = None
    return_documents: bool | None = None

    def texts(self) -> list[str]:
        """The documents' texts."""
        return [item.text if isinstance(item, TextDocument) else item for item in self.documents]


def embeddings_router(models: ServedModels) -> APIRouter:
    """The routes, to be mounted under `/v1` and `/openai/v1`."""
    router = APIRouter(tags=["Embeddings"])

    @router.post("/embeddings", response_model=None)
    async def embeddings(body: EmbeddingsRequest) -> Response:
        return _json(await _embed(models.embedder(body.model), body))

    @router.post("/rerank", response_model=None)
    async def rerank(body: RerankRequest) -> Response:
        return _json(await _rerank(models.embedder(body.model), body))

    return router


async def _embed(embedder: TextEmbedder, body: EmbeddingsRequest) -> dict[str, Any]:
    items = body.inputs()
    tokens = iter(await embedder.tokenize_all([item for item in items if isinstance(item, str)]))
    inputs = [next(tokens) if isinstance(item, str) else item for item in items]
    results = await embedder.embed(inputs, _request_id(), body.dimensions)
    encode = _as_base64 if body.encoding_format == "base64" else _as_list
    data = [
        {"object": "embedding", "index": i, "embedding": encode(result)} for i, result in enumerate(results)
    ]
    return {"object": "list", "data": data, "model": embedder.name, "usage": _usage(results)}


async def _rerank(embedder: TextEmbedder, body: RerankRequest) -> dict[str, Any]:
    texts = body.texts()
    results = await embedder.score(body.query, texts, _request_id())
    scores = [float(result.vector[0]) for result in results]
    best = sorted(range(len(texts)), key=lambda i: -scores[i])[: body.top_n]
    ranked = [
        {"index": i, "relevance_score": scores[i]}
        | ({"document": {"text": texts[i]}} if body.return_documents else {})
        for i in best
    ]
    return {"object": "list", "model": embedder.name, "results": ranked, "usage": _usage(results)}


def _request_id() -> str:
    return current_request_id() or uuid.uuid4().hex


def _usage(results: Sequence[Embedding]) -> dict[str, int]:
    tokens = sum(result.tokens for result in results)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _as_list(result: Embedding) -> list[float]:
    floats: list[float] = result.vector.tolist()
    return floats


def _as_base64(result: Embedding) -> str:
    """Little-endian float32, which is how OpenAI's clients read it."""
    return base64.b64encode(result.vector.astype("<f4").tobytes()).decode()


def _one_input(item: Any) -> str | tuple[int, ...]:
    if isinstance(item, str):
        if not is_unicode(item):
            raise InvalidRequest("input must be valid Unicode text, without lone surrogates", param="input")
        return item
    if isinstance(item, list) and item and _all_tokens(item):
        return tuple(item)
    raise _bad_input()


def _all_tokens(value: Sequence[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _bad_input() -> InvalidRequest:
    return InvalidRequest(
        "input must be a text, a list of texts, a list of token ids or a list of such lists, and not empty",
        param="input",
    )


def _json(payload: dict[str, Any]) -> Response:
    return Response(orjson.dumps(payload), media_type="application/json")
