"""The Open Inference Protocol on Ray Serve's gRPC proxy: messages pass through it as bytes.

kserve's own registration would make the proxy parse each message and pickle it, which fails, since kserve's
generated module isn't importable under the name that its classes carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

SERVICE = "inference.GRPCInferenceService"
METHODS = (
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"),
    *("RepositoryModelLoad", "RepositoryModelUnload"),
)


def add_open_inference(servicer: Any, server: Any) -> None:
    """Register the service; an entry of `grpc_servicer_functions`."""
    handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


@dataclass(frozen=True, slots=True)
class GrpcAnswer:
    """What a call gave.

    Attributes:
        message: serialized; empty where the call failed.
        code: a `grpc.StatusCode` by name.
        details: what went wrong.
    """

    message: bytes
    code: str = "OK"
    details: str = ""

    def SerializeToString(self) -> bytes:  # noqa: N802
        """The message; Ray Serve asks for it as of a protobuf message."""
        return self.message
