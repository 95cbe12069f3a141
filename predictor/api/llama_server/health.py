"""`/health`, which load balancers and KServe's LLMInferenceService ask.

Source: the README of llama.cpp's `tools/server`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from predictor.generation.served_models import ServedModels


def health_router(models: ServedModels) -> APIRouter:
    """The routes, to be mounted at the root."""
    router = APIRouter(tags=["Health"])

    @router.get("/health", response_model=None)
    @router.get("/v1/health", response_model=None)
    async def health() -> dict[str, Any]:
        """Whether requests are taken: 503 while the model loads and from SIGTERM on."""
        models.find(models.names[0])
        return {"status": "ok"}

    return router
