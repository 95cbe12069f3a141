"""What of kserve's data plane this server answers in its own way."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import kserve
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.errors import InferenceError
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferRequest
from kserve.protocol.rest.v2_datamodels import InferenceRequest, RequestInput, RequestOutput
from pydantic import BeforeValidator, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.api.http.errors import describe_validation
from predictor.api.http.json_structure import check_structure
from predictor.api.open_inference.tensor_sizes import check_elements, check_raw_elements
from predictor.errors import InvalidRequest
from predictor.generation.embedding import MAX_TEXTS
from predictor.generation.served_models import ServedModels

_INFER = re.compile(r"/v2/models/[^/]+/infer")
_CLOUD_EVENT = frozenset({"specversion", "id", "source", "type", "data"})


class UnreadInferBodies:
    """ASGI middleware that leaves V2 bodies to `ServingDataPlane`.

    FastAPI would hold a JSON body against kserve's own class first, which notes down an error for each of a
    hundred thousand elements: seconds of work.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] == "http" and _INFER.fullmatch(scope["path"]):
            del MutableHeaders(scope=scope)["content-type"]
        await self.app(scope, receive, send)


class ServingDataPlane(DataPlane):  # type: ignore[misc]
    """Tells the server's readiness by its models, and checks V2 bodies that kserve doesn't check.

    kserve's own says ready whatever happens, and meets a malformed binary body with status 500.

    Args:
        model_registry: kserve's registry.
        models: whose readiness counts.
    """

    def __init__(self, model_registry: kserve.ModelRepository, models: ServedModels) -> None:
        super().__init__(model_registry=model_registry)
        self._models = models

    async def ready(self) -> bool:
        """Whether every model takes requests."""
        return all(self._models.is_ready(name) for name in self._models.names)

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Whether a model takes requests; kserve asks with True where it is about to send one.

        Raises:
            NotReady: it takes none, and there is one.
        """
        ready: bool = await super().model_ready(model_name, disable_predictor_health_check)
        if disable_predictor_health_check and not ready:
            self._models.get(model_name)
        return ready

    def decode_cloudevent(self, body: Any) -> tuple[Any, dict[str, Any]]:
        """The data of a body that is a CloudEvent, and its attributes; any other body as it is.

        kserve knows an event by its `time` among others, which the specification makes optional.
        """
        if isinstance(body, dict) and body.keys() >= _CLOUD_EVENT and "time" not in body:
            body = {**body, "time": datetime.now(UTC).isoformat()}
        decoded: tuple[Any, dict[str, Any]] = super().decode_cloudevent(body)
        return decoded

    def decode_inference_request(
        self, body: bytes | InferenceRequest, headers: Mapping[str, str], model_name: str
    ) -> InferRequest:
        """A V2 body as kserve's request: JSON, or JSON followed by the tensors' bytes.

        FastAPI leaves a body as bytes where the content type isn't JSON, as with a plain `curl -d` or
        tritonclient; without the header that says where the JSON ends, all of it is.

        Raises:
            InvalidRequest: the body is not an inference request.
        """
        if not isinstance(body, bytes):
            for tensor in body.inputs:
                check_elements(tensor.name, tensor.data)
            return super().decode_inference_request(body, headers, model_name)
        length = headers.get(INFERENCE_CONTENT_LENGTH_HEADER, str(len(body)))
        if not (length.isdecimal() and int(length) <= len(body)):
            raise InvalidRequest(
                f"{INFERENCE_CONTENT_LENGTH_HEADER} must be the number of bytes of the JSON in front, "
                f"at most {len(body)}, not {length!r}"
            )
        check_structure(body[: int(length)])
        try:
            request = _BinaryRequest.model_validate_json(body[: int(length)])
        except ValidationError as error:
            raise describe_validation(error.errors()) from None
        _check_tensors(request, body[int(length) :])
        try:
            return InferRequest.from_bytes(body, int(length), model_name)
        except (ValueError, TypeError, OverflowError, InferenceError, struct.error) as error:
            raise InvalidRequest(f"the tensors' data can't be read: {error}") from None


def _check_tensors(request: _BinaryRequest, raw: bytes) -> None:
    """Refuse too many elements, in JSON or in the bytes behind it; where those end, kserve checks."""
    offset = 0
    for tensor in request.inputs:
        check_elements(tensor.name, tensor.data or ())
        size = (tensor.parameters or {}).get("binary_data_size")
        if isinstance(size, int) and size > 0 and tensor.data is None:
            check_raw_elements(tensor.name, raw[offset : offset + size])
            offset += size


def _few(tensors: Any) -> Any:
    if isinstance(tensors, list) and len(tensors) > MAX_TEXTS:
        raise ValueError(f"must be at most {MAX_TEXTS} tensors, not {len(tensors)}")
    return tensors


class _BinaryInput(RequestInput):  # type: ignore[misc]
    data: list[Any] | None = None


class _BinaryRequest(InferenceRequest):  # type: ignore[misc]
    inputs: Annotated[list[_BinaryInput], BeforeValidator(_few)]
    outputs: Annotated[list[RequestOutput] | None, BeforeValidator(_few)] = None
