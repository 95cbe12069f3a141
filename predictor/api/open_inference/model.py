"""The KServe model: V1 and V2 requests in, engine calls out."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.protocol.infer_type import InferInput

from predictor.api.http.fields import is_unicode
from predictor.api.http.middleware import current_request_id
from predictor.api.http.sampling import PROTOCOL_PARAMETERS, parse_sampling
from predictor.api.http.sizes import MAX_ID
from predictor.api.open_inference.model_embeddings import EMBEDDING_OUTPUTS, embed_instances, embed_texts
from predictor.engine.request import Request
from predictor.errors import InvalidRequest
from predictor.generation.embedding import check_count
from predictor.generation.served_models import ServedModels
from predictor.generation.text import Completion, TextGenerator

# V1 and V2 answer in one piece, so an unlimited answer could outlast every proxy's timeout.
DEFAULT_MAX_TOKENS = 256

OUTPUTS = {"text": "BYTES", "finish_reason": "BYTES", "prompt_tokens": "INT32", "completion_tokens": "INT32"}
"""V2 outputs with their datatypes; each has the shape [n], one element per prompt."""

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
        _check_id(payload)
        _check_outputs(payload, OUTPUTS)
        prompts, systems = _tensors(payload, generator.check_count)
        params = parse_sampling(
            _plain(payload.parameters), "parameters", default_max_tokens=DEFAULT_MAX_TOKENS
        )
        label = payload.id or current_request_id() or ""
        requests = [
            Request(label, tokens, params) for tokens in await _tokens_of_all(generator, prompts, systems)
        ]
        return _infer_response(payload, self.name, await generator.complete(requests))

    async def _embed_v2(self, payload: InferRequest) -> InferResponse:
        _check_id(payload)
        _check_outputs(payload, [output["name"] for output in EMBEDDING_OUTPUTS])
        texts, systems = _tensors(payload, partial(check_count, param="prompt"))
        if any(system is not None for system in systems):
            raise InvalidRequest("an embedding model takes no system message: leave it out", param="system")
        outputs = await embed_texts(self._models.embedder(self.name), texts)
        return _answer(payload, self.name, outputs)


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


def _tensors(payload: InferRequest, check_count: Callable[[int], None]) -> tuple[list[str], list[str | None]]:
    """The prompts and, for each, its system message.

    Args:
        payload: the call.
        check_count: told how many prompts there are, before they are read.
    """
    inputs = {tensor.name: tensor for tensor in payload.inputs}
    unknown = sorted(inputs.keys() - {"prompt", "system"})
    if unknown:
        raise InvalidRequest(f"unknown input {unknown[0]!r}; known: prompt, system", param=unknown[0])
    if len(inputs) != len(payload.inputs):
        raise InvalidRequest("an input is given twice: put all its elements into one tensor")
    if "prompt" not in inputs:
        raise InvalidRequest("input prompt is missing: a BYTES tensor of shape [n]", param="prompt")
    prompts = _texts(inputs["prompt"], check_count)
    systems = _texts(inputs["system"], check_count) if "system" in inputs else []
    if len(systems) not in (0, 1, len(prompts)):
        raise InvalidRequest(
            f"system has {len(systems)} elements; send one, or one for each of {len(prompts)} prompts",
            param="system",
        )
    if not systems:
        return prompts, [None] * len(prompts)
    return prompts, list(systems * len(prompts) if len(systems) == 1 else systems)


def _texts(tensor: InferInput, check_count: Callable[[int], None]) -> list[str]:
    """The elements of a BYTES tensor of shape [n] or [n, 1]."""
    shape = list(tensor.shape)
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"{tensor.name} must be BYTES, not {tensor.datatype}", param=tensor.name)
    if shape[1:] not in ([], [1]) or not shape or shape[0] < 1:
        raise InvalidRequest(
            f"{tensor.name} must have shape [n] with at least one element, not {shape}", param=tensor.name
        )
    check_count(shape[0])
    try:
        elements = [
            element.decode() if isinstance(element, bytes) else element
            for element in tensor.as_numpy().ravel().tolist()
        ]
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise InvalidRequest(
            f"{tensor.name} can't be read as {shape[0]} texts in UTF-8: {error}", param=tensor.name
        ) from None
    if not all(isinstance(element, str) and is_unicode(element) for element in elements):
        raise InvalidRequest(f"{tensor.name} must hold text", param=tensor.name)
    return elements


def _plain(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Request parameters as Python values; gRPC brings messages with one field each."""
    return {name: _value(name, value) for name, value in (parameters or {}).items()}


def _value(name: str, value: Any) -> Any:
    if not hasattr(value, "WhichOneof"):
        return value
    field = value.WhichOneof("parameter_choice")
    if field is None and name not in PROTOCOL_PARAMETERS:
        # tritonclient sends floating-point numbers in a field that kserve's protocol file lacks.
        raise InvalidRequest(
            f"parameters: {name} has no value; over gRPC send it as bool, int64 or string, a number with a "
            "fraction as a string",
            param=name,
        )
    return getattr(value, field) if field else None


def _check_id(request: InferRequest) -> None:
    if request.id is not None and not is_unicode(request.id):
        raise InvalidRequest("id must be valid Unicode text, without lone surrogates", param="id")
    if request.id is not None and len(request.id) > MAX_ID:
        raise InvalidRequest(f"id must have at most {MAX_ID} characters, not {len(request.id)}", param="id")


def _check_outputs(request: InferRequest, known: Collection[str]) -> None:
    for output in request.request_outputs or ():
        if output.name not in known:
            raise InvalidRequest(
                f"unknown output {output.name!r}; known: {', '.join(known)}", param=output.name
            )


def _infer_response(request: InferRequest, name: str, completions: list[Completion]) -> InferResponse:
    outputs = [
        InferOutput(output, [len(completions)], datatype, [_element(c, output) for c in completions])
        for output, datatype in OUTPUTS.items()
    ]
    return _answer(request, name, outputs)


def _answer(request: InferRequest, name: str, outputs: Sequence[InferOutput]) -> InferResponse:
    """The outputs that were asked for: all, where none are named."""
    requested = {output.name for output in request.request_outputs or ()}
    return InferResponse(
        request.id or current_request_id() or "",
        name,
        [output for output in outputs if not requested or output.name in requested],
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def _element(completion: Completion, output: str) -> str | int:
    value = getattr(completion, output)
    return value if isinstance(value, int) else str(value)
