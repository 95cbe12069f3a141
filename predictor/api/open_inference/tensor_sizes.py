"""How many elements a V2 call brings, asked before kserve reads them one by one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest

from predictor.errors import InvalidRequest
from predictor.generation.embedding import MAX_TEXTS

_LENGTH = struct.Struct("<I")


def check_elements(name: str, elements: Sequence[Any]) -> None:
    """Refuse a tensor of too many elements.

    Raises:
        InvalidRequest: there are more than `MAX_TEXTS`.
    """
    if len(elements) > MAX_TEXTS:
        raise _too_many(name)


def check_raw_elements(name: str, raw: bytes) -> None:
    """Refuse a BYTES tensor of too many elements, each with its length in front.

    Raises:
        InvalidRequest: there are more than `MAX_TEXTS`; where one ends is not checked.
    """
    offset = 0
    for _ in range(MAX_TEXTS):
        if offset + _LENGTH.size > len(raw):
            return
        offset += _LENGTH.size + int(_LENGTH.unpack_from(raw, offset)[0])
    if offset < len(raw):
        raise _too_many(name)


def check_grpc_request(request: ModelInferRequest) -> None:
    """Refuse a request with a tensor of too many elements.

    Raises:
        InvalidRequest: it has one.
    """
    check_elements("inputs", request.inputs)
    for tensor in request.inputs:
        for _, contents in tensor.contents.ListFields():
            check_elements(tensor.name, contents)
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=False):
        if tensor.datatype == "BYTES":
            check_raw_elements(tensor.name, raw)


def _too_many(name: str) -> InvalidRequest:
    return InvalidRequest(f"{name} has more than {MAX_TEXTS} elements: split the call", param=name)
