"""What kserve has routes for and this server doesn't do: versions of a model, and explanations.

kserve answers them with 501 and a traceback in the log.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request

from predictor.errors import ModelNotFound


def unserved_router() -> APIRouter:
    """Answers 404 on all of them."""
    router = APIRouter()
    versions = "/v2/models/{model}/versions/{version}"

    @router.get(versions, tags=["V2"], response_model=None)
    @router.get(f"{versions}/ready", tags=["V2"], response_model=None)
    @router.post(f"{versions}/infer", tags=["V2"], response_model=None)
    @router.post(f"{versions}/generate", tags=["V2"], response_model=None)
    @router.post(f"{versions}/generate_stream", tags=["V2"], response_model=None)
    async def no_versions(model: str, version: str) -> None:
        raise ModelNotFound(f"models have no versions here: leave /versions/{version} out of the path")

    @router.post("/v1/models/{model}:explain", tags=["V1"], response_model=None)
    async def no_explainer(model: str) -> None:
        raise ModelNotFound(f"there is no explainer of model {model!r}: use :predict")

    return router


async def refuse_version(request: Request) -> None:
    """A dependency for kserve's V2 routes, which take a version in the query as well.

    Raises:
        ModelNotFound: the query has one.
    """
    if request.query_params.get("model_version"):
        raise ModelNotFound("models have no versions here: leave model_version out")
