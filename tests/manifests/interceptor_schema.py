"""A closed schema for the one kind that neither a CRD in ../shared/crds nor a Go module or SDK describes.

InterceptorRoute is KEDA HTTP add-on's (https://keda.sh/http-add-on/latest/reference/interceptorroute/);
only the fields used here are listed.
"""

from __future__ import annotations

from typing import Any

import jsonschema
from rendered_manifests import Object


def _closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
_INTERCEPTOR_ROUTE = _closed(
    apiVersion={"const": "http.keda.sh/v1beta1"},
    kind={"const": "InterceptorRoute"},
    metadata={"type": "object"},
    spec=_closed(
        target=_closed(service=_TEXT, port=_COUNT),
        rules={"type": "array", "minItems": 1, "items": _closed(hosts={"type": "array", "items": _TEXT})},
        scalingMetric=_closed(concurrency=_closed(targetValue=_COUNT)),
        timeouts=_closed(readiness=_DURATION, request=_DURATION, responseHeader=_DURATION),
    ),
)
SCHEMAS = {("http.keda.sh/v1beta1", "InterceptorRoute"): _INTERCEPTOR_ROUTE}


def problems(item: Object) -> list[str]:
    """What is wrong with an object of one of these kinds."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[item["apiVersion"], item["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(item)]
