"""KServe's V1 and V2 for embedding models."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from kserve import InferOutput

from predictor.api.http.fields import is_unicode
from predictor.api.http.middleware import current_request_id
from predictor.errors import InvalidRequest
from predictor.generation.embedding import Embedding, TextEmbedder, check_count

EMBEDDING_OUTPUTS: tuple[dict[str, Any], ...] = (
    {"name": "embedding", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "prompt_tokens", "datatype": "INT32", "shape": [-1]},
)
"""V2 outputs: a row for each prompt, of length 1 as a vector, and how many tokens it had."""


async def embed_instances(embedder: TextEmbedder, instances: Sequence[Any]) -> dict[str, Any]:
    """The answer to a V1 call whose instances are strings, or objects with `prompt`: a vector for each."""
    check_count(len(instances), "instances")
    texts = [_instance_text(instance, f"instances[{i}]") for i, instance in enumerate(instances)]
    return {"predictions": [result.vector.tolist() for result in await _embed(embedder, texts)]}


async def embed_texts(embedder: TextEmbedder, texts: Sequence[str]) -> list[InferOutput]:
    """The outputs of a V2 call."""
    results = await _embed(embedder, texts)
    vectors = np.stack([result.vector for result in results])
    return [
        InferOutput("embedding", list(vectors.shape), "FP32", vectors.ravel().tolist()),
        InferOutput("prompt_tokens", [len(results)], "INT32", [result.tokens for result in results]),
    ]


async def _embed(embedder: TextEmbedder, texts: Sequence[str]) -> list[Embedding]:
    tokens = await embedder.tokenize_all(texts)
    return await embedder.embed(tokens, current_request_id() or uuid.uuid4().hex)


def _instance_text(instance: Any, where: str) -> str:
    text = instance.get("prompt") if isinstance(instance, dict) and set(instance) == {"prompt"} else instance
    if not isinstance(text, str) or not is_unicode(text):
        raise InvalidRequest(
            f"{where} must be a string or an object with nothing but prompt, of valid Unicode", param=where
        )
    return text
