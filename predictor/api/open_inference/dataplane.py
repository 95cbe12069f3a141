"""What of kserve's data plane this server answers in its own way."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import kserve
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.errors import InferenceError
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferRequest
from kserve.protocol.rest.v2_datamodels import InferenceRequest, RequestInput
from pydantic import ValidationError

from predictor.api.http.errors import describe_validation
from predictor.api.http.json_structure import check_structure
from predictor.api.open_inference.tensor_sizes import check_elements, check_raw_elements
from predictor.errors import InvalidRequest
from predictor.generation.served_models import ServedModels

_CLOUD_EVENT = frozenset({"specversion", "id", "source", "type", "data"})


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


class _BinaryInput(RequestInput):  # type: ignore[misc]
    data: list[Any] | None = None


class _BinaryRequest(InferenceRequest):  # type: ignore[misc]
    inputs: list[_BinaryInput]
