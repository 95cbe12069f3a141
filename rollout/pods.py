"""Reaching a revision's pods through the API server, with the user's rights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.verdict import Revision

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PORT = 8080
SECONDS = 10.0


class PodUnreachable(OSError):
    """A pod, or the API server on the way to it, didn't answer with success.

    Args:
        message: what came instead.
        status: of HTTP; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class PodStatus:
    """What the cluster says of a pod; `restarts` are its containers', all together."""

    name: str
    ready: bool
    restarts: int


class Pods:
    """Pods of revisions, over the core API. Needs `list` on pods, and on pods/proxy `get`, to ask `create`.

    Args:
        api: connects to the cluster.
        port: where the predictor listens.
    """

    def __init__(self, api: ApiClient, port: int = PORT) -> None:
        self._api = api
        self._port = port

    def ready(self, revision: Revision) -> list[str]:
        """Names of the ready pods.

        Raises:
            PodUnreachable: the API server doesn't tell.
        """
        return [pod.name for pod in self.of(revision) if pod.ready]

    def of(self, revision: Revision) -> list[PodStatus]:
        """A revision's pods, ready or not.

        Raises:
            PodUnreachable: the API server doesn't tell.
        """
        path = f"/api/v1/namespaces/{revision.namespace}/pods"
        pods = json.loads(self._call("GET", path, query=[("labelSelector", revision.pod_selector)]))
        return [
            PodStatus(pod["metadata"]["name"], _is_ready(pod), _restarts(pod))
            for pod in pods.get("items", [])
        ]

    def get(self, namespace: str, pod: str, path: str) -> str:
        """The body of `GET /path` on a pod.

        Raises:
            PodUnreachable: there is no success.
        """
        return self._call("GET", self._proxy(namespace, pod, path))

    def post(self, namespace: str, pod: str, path: str, body: Any, seconds: float) -> str:
        """The body of the answer to `POST /path` with JSON on a pod.

        Raises:
            PodUnreachable: there is no success within so many seconds.
        """
        return self._call("POST", self._proxy(namespace, pod, path), body=body, seconds=seconds)

    def _proxy(self, namespace: str, pod: str, path: str) -> str:
        return f"/api/v1/namespaces/{namespace}/pods/{pod}:{self._port}/proxy/{path}"

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Any = None,
        seconds: float = SECONDS,
    ) -> str:
        api = self._api
        request = api.param_serialize(
            method,
            path,
            query_params=query or [],
            header_params={"Accept": "*/*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = api.call_api(*request, _request_timeout=seconds)
            data = response.read()
        except Exception as error:
            # urllib3's errors and the client's own share no base but Exception.
            raise PodUnreachable(f"{method} {path}: {error}") from error
        text = (data or b"").decode("utf-8", "replace")
        if not 200 <= response.status < 300:
            raise PodUnreachable(f"{method} {path}: status {response.status}: {text[:200]}", response.status)
        return text


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _restarts(pod: dict[str, Any]) -> int:
    containers = pod.get("status", {}).get("containerStatuses") or []
    return sum(int(container.get("restartCount", 0)) for container in containers)
