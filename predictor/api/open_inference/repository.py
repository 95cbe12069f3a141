"""KServe's routes to load and unload models, closed: anybody could take the model down with them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

CLOSED = "models can't be loaded or unloaded by request: the server's start decides what it serves"


def closed_repository_router() -> APIRouter:
    """Answers 403 on both routes."""
    router = APIRouter(prefix="/v2/repository/models", tags=["V2 repository"])

    @router.post("/{model}/load", response_model=None)
    @router.post("/{model}/unload", response_model=None)
    async def closed(model: str) -> JSONResponse:
        return JSONResponse({"error": CLOSED}, 403)

    return router
