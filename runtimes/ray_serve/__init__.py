"""The predictor's engine as a Ray Serve application.

serve run runtimes.ray_serve:app model=MODEL.gguf model_name=NAME
"""

from __future__ import annotations

from typing import Any

from ray.serve import Application


def app(arguments: dict[str, Any]) -> Application:
    """Build the application, for `serve run` and for `args` in a config file.

    Args:
        arguments: the settings of `kserve-llamacpp serve`, by field name; what is missing comes from the
            environment.

    Raises:
        StartupError: a setting is wrong.
    """
    from pydantic import ValidationError

    from predictor.errors import StartupError
    from predictor.settings import Settings, explain
    from runtimes.ray_serve.application import build

    try:
        settings = Settings(**{"platform": "ray", **arguments})
    except ValidationError as error:
        raise StartupError(explain(error)) from None
    return build(settings)
