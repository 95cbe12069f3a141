"""kserve's application and gRPC service without kserve's servers: Ray Serve owns the ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from predictor.generation.served_models import ServedModels
from predictor.serving.deferred_imports import import_kserve
from predictor.settings import Settings


class KServeApplication:
    """The same routes, data plane and gRPC service as under `kserve.ModelServer`; one for each process.

    Args:
        settings: with `model_name`.
        refused: told the reason for each request that is turned away before it comes to the engine.

    Attributes:
        app: the ASGI application.
        grpc: the Open Inference Protocol's calls.
        models: published once they are loaded.
        log_fields: for `add_request_fields`.
    """

    def __init__(self, settings: Settings, refused: Callable[[str], None]) -> None:
        import_kserve()
        from kserve import ModelRepository
        from kserve.model_server import app
        from kserve.protocol.rest.server import RESTServer

        from predictor.access.gate import current_caller, gate_of
        from predictor.api.http.middleware import current_path, current_request_id
        from predictor.api.open_inference.dataplane import ServingDataPlane
        from predictor.api.open_inference.grpc_calls import ServingInterceptor
        from predictor.serving.http_application import mount_protocols
        from predictor.serving.lifecycle import ClosedRepository
        from runtimes.ray_serve.open_inference import OpenInferenceService

        assert settings.model_name is not None
        adapters = [adapter.name for adapter in settings.lora or ()]
        name, *aliases = settings.model_name
        self.models = ServedModels(name, adapters, refused, aliases=aliases)
        gate = gate_of(settings, refused)
        served = mount_protocols(app, self.models, settings, gate)
        repository = ModelRepository()
        for model in served:
            repository.update(model)
        data_plane = ServingDataPlane(repository, self.models)
        closed = ClosedRepository(repository)
        # Adds kserve's routes to its application; the server itself is never started.
        RESTServer("kserve.model_server:app", data_plane, closed, http_port=0).create_application()
        self.app = app
        self.grpc = OpenInferenceService(data_plane, closed, ServingInterceptor(gate, open_routes=True))
        self.log_fields: Mapping[str, Callable[[], str | None]] = {
            "request_id": current_request_id,
            "path": current_path,
            "api_key": current_caller,
        }
