"""The KServe model: V1 and V2 requests in, engine calls out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from kserve import InferRequest, InferResponse, Model

from predictor.api.http.fields import is_unicode
from predictor.api.http.middleware import current_request_id
from predictor.api.http.sampling import parse_sampling
from predictor.api.open_inference.model_embeddings import EMBEDDING_OUTPUTS, embed_instances, embed_texts
from predictor.api.open_inference.tensors import (
    OUTPUTS,
    answer,
    check_call,
    infer_delta,
    infer_response,
    plain_parameters,
    read_texts,
)
from predictor.engine.request import Request
from predictor.errors import InvalidRequest
from predictor.generation.embedding import check_count
from predictor.generation.served_models import ServedModels
from predictor.generation.text import Completion, TextGenerator

# V1 and V2 answer in one piece, so an unlimited answer could outlast every proxy's timeout.
DEFAULT_MAX_TOKENS = 256

_PROMPT_FIELDS = ("prompt", "messages")


class LlamaCppModel(Model):  # type: ignore[misc]
    """Answers KServe's V1 and V2 protocols, REST and gRPC, for one name.

    Args:
        name: the model's name.
        models: where the generator behind the name is found once it is ready.
    """

    def __init__(self, name: str, models: ServedModels) -> None:
        super().__init__(name)
        self._models = models

    @property
    def ready(self) -> bool:
        """Whether requests are taken: after the warm-up and until the shutdown begins."""
        return self._models.is_ready(self.name)

    @ready.setter
    def ready(self, value: bool) -> None:
        # kserve's base classes set it; ours follows the engine alone.
        pass

    def load(self) -> bool:
        """kserve calls this for a request that comes before the model is ready.

        Raises:
            NotReady: always, as the server loads the model by itself.
        """
        self._models.get(self.name)
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        """V2 metadata of the inputs."""
        if self._models.is_embedder(self.name):
            return [_tensor("prompt", "BYTES")]
        return [_tensor("prompt", "BYTES"), _tensor("system", "BYTES")]

    def get_output_types(self) -> list[dict[str, Any]]:
        """V2 metadata of the outputs."""
        if self._models.is_embedder(self.name):
            return [dict(output) for output in EMBEDDING_OUTPUTS]
        return [_tensor(name, datatype) for name, datatype in OUTPUTS.items()]

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        """Answer one V1 or V2 call; everything in it runs as one batch.

        Raises:
            PredictorError: the call can't be answered.
        """
        if isinstance(payload, InferRequest):
            return await self._predict_v2(payload)
        return await self._predict_v1(payload)

    async def _predict_v1(self, payload: Any) -> dict[str, Any]:
        if self._models.is_embedder(self.name):
            return await embed_instances(self._models.embedder(self.name), _instances(payload))
        generator = self._models.get(self.name)
        instances = _instances(payload)
        generator.check_count(len(instances))
        requests = []
        for i, instance in enumerate(instances):
            requests.append(await _instance_request(generator, instance, f"instances[{i}]"))
            await asyncio.sleep(0)  # Each is quick, but not all of them together.
        return {"predictions": [_prediction(c) for c in await generator.complete(requests)]}

    async def _predict_v2(self, payload: InferRequest) -> InferResponse:
        if self._models.is_embedder(self.name):
            return await self._embed_v2(payload)
        generator = self._models.get(self.name)
        requests = await self._v2_requests(generator, payload)
        return infer_response(payload, self.name, await generator.complete(requests))

    async def _v2_requests(self, generator: TextGenerator, payload: InferRequest) -> list[Request]:
        check_call(payload, OUTPUTS)
        prompts, systems = read_texts(payload, generator.check_count)
        params = parse_sampling(
            plain_parameters(payload.parameters), "parameters", default_max_tokens=DEFAULT_MAX_TOKENS
        )
        label = payload.id or current_request_id() or ""
        tokens_of_all = await _tokens_of_all(generator, prompts, systems)
        return [Request(label, tokens, params) for tokens in tokens_of_all]

    async def stream(
        self, payload: InferRequest, headers: dict[str, str]
    ) -> AsyncGenerator[InferResponse, None]:
        """Answer one V2 call of one prompt piece by piece; the last piece has a finish reason.

        A model that gives vectors answers in one piece.

        Args:
            payload: the call.
            headers: of the call it came with.

        Raises:
            PredictorError: the call can't be answered.
        """
        if self._models.is_embedder(self.name):
            yield await self._embed_v2(payload)
            return
        generator = self._models.get(self.name)
        requests = await self._v2_requests(generator, payload)
        if len(requests) != 1:
            raise InvalidRequest(
                f"a streamed request takes one prompt, not {len(requests)}: send a request for each",
                param="prompt",
            )
        (stream,) = generator.submit(requests)
        try:
            async for delta in stream:
                if delta.text or delta.finish_reason is not None:
                    yield infer_delta(payload, self.name, delta, len(requests[0].prompt))
        finally:
            stream.cancel()

    async def _embed_v2(self, payload: InferRequest) -> InferResponse:
        check_call(payload, [output["name"] for output in EMBEDDING_OUTPUTS])
        texts, systems = read_texts(payload, partial(check_count, param="prompt"))
        if any(system is not None for system in systems):
            raise InvalidRequest("an embedding model takes no system message: leave it out", param="system")
        outputs = await embed_texts(self._models.embedder(self.name), texts)
        return answer(payload, self.name, outputs)


async def _tokens_of_all(
    generator: TextGenerator, prompts: Sequence[str], systems: Sequence[str | None]
) -> list[tuple[int, ...]]:
    if all(system is None for system in systems):
        return await generator.tokenize_all(prompts)
    tokens = []
    for prompt, system in zip(prompts, systems, strict=True):
        tokens.append(await generator.tokenize_chat(_messages(system or "", prompt)))
        await asyncio.sleep(0)  # Each is quick, but not all of them together.
    return tokens


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}


def _messages(system: str, prompt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def _instances(payload: Any) -> list[Any]:
    """The instances of a V1 body.

    kserve passes on raw bytes where the content type isn't JSON, as with a plain `curl -d`.
    """
    if isinstance(payload, bytes):
        try:
            payload = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(payload, dict) or "instances" not in payload:
        raise InvalidRequest('the body must be a JSON object {"instances": [...]}')
    unknown = sorted(payload.keys() - {"instances"})
    if unknown:
        raise InvalidRequest(
            f"unknown field {unknown[0]!r}; sampling fields belong into the instances", param=unknown[0]
        )
    instances = payload["instances"]
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest("instances must be a list with at least one element", param="instances")
    return instances


async def _instance_request(generator: TextGenerator, instance: Any, where: str) -> Request:
    if isinstance(instance, str):
        instance = {"prompt": instance}
    if not isinstance(instance, dict):
        raise InvalidRequest(f"{where} must be a string or an object with prompt or messages", param=where)
    if sum(field in instance for field in _PROMPT_FIELDS) != 1:
        raise InvalidRequest(f"{where} must have either prompt or messages", param=where)
    sampling = {name: value for name, value in instance.items() if name not in _PROMPT_FIELDS}
    params = parse_sampling(sampling, where, default_max_tokens=DEFAULT_MAX_TOKENS)
    try:
        tokens = await _instance_tokens(generator, instance)
    except InvalidRequest as error:
        raise type(error)(f"{where}: {error.message}", param=error.param) from None
    return Request(current_request_id() or "", tokens, params)


async def _instance_tokens(generator: TextGenerator, instance: dict[str, Any]) -> tuple[int, ...]:
    if "messages" not in instance:
        prompt = instance["prompt"]
        if not isinstance(prompt, str) or not is_unicode(prompt):
            raise InvalidRequest("prompt must be a string of valid Unicode", param="prompt")
        return await generator.tokenize(prompt)
    messages = instance["messages"]
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise InvalidRequest("messages must be a list of objects with role and content", param="messages")
    return await generator.tokenize_chat(messages)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


def _prediction(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason.value,
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
    }
