"""V2's routes with a version in their path, closed: a model has no versions here.

kserve answers the ones of its own with 501 and a traceback in the log.
"""

from __future__ import annotations

from fastapi import APIRouter

from predictor.errors import ModelNotFound


def no_versions_router() -> APIRouter:
    """Answers 404 on all of them."""
    router = APIRouter(prefix="/v2/models/{model}/versions/{version}", tags=["V2"])

    @router.get("", response_model=None)
    @router.get("/ready", response_model=None)
    @router.post("/infer", response_model=None)
    @router.post("/generate", response_model=None)
    @router.post("/generate_stream", response_model=None)
    async def no_versions(model: str, version: str) -> None:
        raise ModelNotFound(f"models have no versions here: leave /versions/{version} out of the path")

    return router
