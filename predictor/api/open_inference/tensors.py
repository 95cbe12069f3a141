"""V2 calls as texts and parameters, and completions as V2 answers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet
from kserve import InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import InferInput

from predictor.api.http.fields import is_unicode
from predictor.api.http.middleware import current_request_id
from predictor.api.http.sampling import PROTOCOL_PARAMETERS
from predictor.api.http.sizes import MAX_ID
from predictor.engine.request import Delta
from predictor.errors import InvalidRequest
from predictor.generation.text import Completion

OUTPUTS = {"text": "BYTES", "finish_reason": "BYTES", "prompt_tokens": "INT32", "completion_tokens": "INT32"}
"""V2 outputs with their datatypes; each has the shape [n], one element per prompt."""

_DOUBLE_PARAM, _UINT64_PARAM = 4, 5
"""Fields of Triton's `InferParameter`."""


def read_texts(
    payload: InferRequest, check_count: Callable[[int], None]
) -> tuple[list[str], list[str | None]]:
    """The prompts and, for each, its system message.

    Args:
        payload: the call.
        check_count: told how many prompts there are, before they are read.

    Raises:
        InvalidRequest: an input is missing, unknown or malformed.
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


def plain_parameters(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Request parameters as Python values; gRPC brings messages with one field each."""
    return {name: _value(name, value) for name, value in (parameters or {}).items()}


def _value(name: str, value: Any) -> Any:
    if not hasattr(value, "WhichOneof"):
        return value
    field = value.WhichOneof("parameter_choice")
    if field is not None:
        return getattr(value, field)
    # Triton's protocol file has two kinds of number that kserve's lacks.
    for unknown in UnknownFieldSet(value):
        if unknown.field_number == _DOUBLE_PARAM and isinstance(unknown.data, int):
            return struct.unpack("<d", struct.pack("<Q", unknown.data))[0]
        if unknown.field_number == _UINT64_PARAM and isinstance(unknown.data, int):
            return unknown.data
    if name not in PROTOCOL_PARAMETERS:
        raise InvalidRequest(f"parameters: {name} has no value", param=name)
    return None


def check_call(request: InferRequest, known: Collection[str]) -> None:
    """Refuse an id that can't come back, and outputs that don't exist.

    Raises:
        InvalidRequest: there is such a thing.
    """
    if request.id is not None and not is_unicode(request.id):
        raise InvalidRequest("id must be valid Unicode text, without lone surrogates", param="id")
    if request.id is not None and len(request.id) > MAX_ID:
        raise InvalidRequest(f"id must have at most {MAX_ID} characters, not {len(request.id)}", param="id")
    for output in request.request_outputs or ():
        if output.name not in known:
            raise InvalidRequest(
                f"unknown output {output.name!r}; known: {', '.join(known)}", param=output.name
            )


def infer_response(request: InferRequest, name: str, completions: Sequence[Completion]) -> InferResponse:
    """The answer of a model that generates text."""
    outputs = [
        InferOutput(output, [len(completions)], datatype, [_element(c, output) for c in completions])
        for output, datatype in OUTPUTS.items()
    ]
    return answer(request, name, outputs)


def infer_delta(request: InferRequest, name: str, delta: Delta, prompt_tokens: int) -> InferResponse:
    """A piece of an answer; it has the same outputs, and no finish reason until the last."""
    values = {
        "text": delta.text,
        "finish_reason": "" if delta.finish_reason is None else delta.finish_reason.value,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": delta.completion_tokens,
    }
    outputs = [InferOutput(output, [1], datatype, [values[output]]) for output, datatype in OUTPUTS.items()]
    return answer(request, name, outputs)


def answer(request: InferRequest, name: str, outputs: Sequence[InferOutput]) -> InferResponse:
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
