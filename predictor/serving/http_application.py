"""Puts every protocol onto kserve's FastAPI application, the same for each way to run the predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI

from predictor.access.gate import Gate
from predictor.api.anthropic.routes import messages_router
from predictor.api.http.errors import install_error_handlers
from predictor.api.http.middleware import install_middleware
from predictor.api.http.unserved import refuse_version, unserved_router
from predictor.api.llama_server.health import health_router
from predictor.api.llama_server.infill import infill_router
from predictor.api.llama_server.tokens import tokens_router
from predictor.api.open_inference.generate import generate_router
from predictor.api.open_inference.repository import closed_repository_router
from predictor.api.openai.embeddings import embeddings_router
from predictor.api.openai.responses.routes import responses_router
from predictor.api.openai.routes import openai_router
from predictor.api.predict import predict_router
from predictor.generation.served_models import ServedModels
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.api.open_inference.model import LlamaCppModel


def mount_protocols(
    app: FastAPI, models: ServedModels, settings: Settings, gate: Gate | None
) -> list[LlamaCppModel]:
    """Add our routes and middleware to kserve's application.

    Args:
        app: `kserve.model_server.app`, before kserve has added its own routes: the first added win.
        models: what is served.
        settings: which routes there are, and their limits.
        gate: checks API keys; None lets everybody in.

    Returns:
        What kserve's V1 and V2 routes call, one for each name.
    """
    # kserve reads the command line when it is imported, so the caller decides when that is.
    from predictor.api.open_inference.dataplane import UnreadInferBodies
    from predictor.api.open_inference.model import LlamaCppModel
    from predictor.api.open_inference.triton import triton_router

    install_error_handlers(app)
    app.add_middleware(UnreadInferBodies)
    for prefix in ("/v1", "/openai/v1"):
        app.include_router(openai_router(models, settings.sse_ping_seconds), prefix=prefix)
        app.include_router(responses_router(models, settings.sse_ping_seconds), prefix=prefix)
        app.include_router(embeddings_router(models), prefix=prefix)
    app.include_router(messages_router(models, settings.sse_ping_seconds), prefix="/v1")
    for router in (
        health_router(models),
        tokens_router(models),
        infill_router(models, settings.sse_ping_seconds),
        generate_router(models, settings.sse_ping_seconds),
        predict_router(models),
        triton_router(models),
        unserved_router(),
        closed_repository_router(),
    ):
        app.include_router(router)
    if settings.ui:
        from predictor.api.chat_page import install_page

        install_page(app)
    # For the routes that kserve adds later.
    app.router.dependencies.append(Depends(refuse_version))
    install_middleware(
        app,
        max_body_bytes=settings.max_body_bytes,
        gate=gate,
        open_routes=settings.open_port is None,
        cors_origins=settings.cors_origins.split(",") if settings.cors_origins else (),
    )
    if settings.otlp_traces_endpoint is None:
        return [LlamaCppModel(name, models) for name in models.names]
    from predictor.api.open_inference.traced_model import TracedModel
    from predictor.telemetry.tracing import TraceContext

    app.add_middleware(TraceContext)
    return [TracedModel(name, models) for name in models.names]
