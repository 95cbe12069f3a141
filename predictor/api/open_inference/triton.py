"""What Triton's clients ask beyond the Open Inference Protocol: configuration, statistics, index of models.

Source: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from predictor.errors import ModelNotFound
from predictor.generation.served_models import ServedModels
from predictor.telemetry.statistics import ModelFigures, model_figures

BACKEND = "llama.cpp"
_DATA_TYPES = {"BYTES": "TYPE_STRING", "INT32": "TYPE_INT32", "FP32": "TYPE_FP32"}


class TritonExtensions:
    """Answers them, in the form of Triton's JSON.

    Args:
        models: what is served.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def config(self, name: str) -> dict[str, Any]:
        """A model's configuration.

        Raises:
            ModelNotFound: no such name.
            NotReady: the model is loading or the server is shutting down.
        """
        from predictor.api.open_inference.model import LlamaCppModel

        self._models.find(name)
        model = LlamaCppModel(name, self._models)
        return {
            "name": name,
            "platform": BACKEND,
            "backend": BACKEND,
            "max_batch_size": 0,  # The first dimension of every tensor counts the prompts.
            "input": [_config_tensor(tensor) for tensor in model.get_input_types()],
            "output": [_config_tensor(tensor) for tensor in model.get_output_types()],
            "model_transaction_policy": {"decoupled": False},
        }

    def index(self) -> list[dict[str, str]]:
        """The names that are served, adapters among them."""
        return [
            {
                "name": name,
                "version": "",
                "state": "READY" if self._models.is_ready(name) else "UNAVAILABLE",
                "reason": "" if self._models.is_ready(name) else "loading or shutting down",
            }
            for name in self._models.names
        ]

    def statistics(self, name: str) -> dict[str, Any]:
        """Figures since the start, of one model or of all; an adapter's requests count for its model.

        Args:
            name: a model's, or "" for all.

        Raises:
            ModelNotFound: no such name.
        """
        if name and name not in self._models.names:
            raise ModelNotFound(f"model {name!r} is not served here", param="model")
        asked = name or self._models.names[0]
        figures = model_figures(self._models.main_name(asked))
        return {"model_stats": [_statistics(asked, figures)]}


def triton_router(models: ServedModels) -> APIRouter:
    """The routes, with their full paths."""
    router = APIRouter(tags=["Triton"])
    extensions = TritonExtensions(models)

    @router.get("/v2/models/stats", response_model=None)
    async def all_statistics() -> dict[str, Any]:
        return extensions.statistics("")

    @router.get("/v2/models/{model}/stats", response_model=None)
    async def statistics(model: str) -> dict[str, Any]:
        return extensions.statistics(model)

    @router.get("/v2/models/{model}/config", response_model=None)
    async def config(model: str) -> dict[str, Any]:
        return extensions.config(model)

    @router.post("/v2/repository/index", response_model=None)
    async def index() -> list[dict[str, str]]:
        return extensions.index()

    return router


def _config_tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    return {"name": tensor["name"], "data_type": _DATA_TYPES[tensor["datatype"]], "dims": tensor["shape"]}


def _statistics(name: str, figures: ModelFigures) -> dict[str, Any]:
    done = figures.finished

    def duration(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(seconds * 1e9)}

    return {
        "name": name,
        "version": "",
        "inference_count": done,
        "execution_count": figures.steps,
        "inference_stats": {
            "success": duration(done, figures.total_seconds),
            "fail": duration(figures.failed, 0),
            "queue": duration(done, figures.queue_seconds),
            "compute_input": duration(done, figures.prefill_seconds),
            "compute_infer": duration(done, figures.decode_seconds),
            "compute_output": duration(done, 0),
        },
    }
