"""The Kubernetes API, as far as rollouts use it, over the `kubernetes` package."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from rollout.errors import ClusterAway, ClusterUnreachable, MissingRights, RolloutError, ServiceNotFound
from rollout.record import ENTRY, Entry, now, read_history
from rollout.rights import Right
from rollout.service import OURS, Service

_SERVING = ("serving.kserve.io", "v1beta1")
_PLURAL = "inferenceservices"
_MERGE = "application/merge-patch+json"
_TIMEOUT_S = 30
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TRIES = 5
_TRANSIENT = (429, 500, 502, 503, 504)
_CONFLICT = 409


class Conflict(Exception):
    """The object has changed since it was read."""


class Cluster:
    """One namespace of a cluster, with the user's rights.

    Args:
        api: a configured client; see `connect`.
        namespace: of the InferenceServices.
        retry_s: pause before the first retry of a request that failed for reasons of the server; it doubles.
    """

    def __init__(self, api: client.ApiClient, namespace: str, *, retry_s: float = 0.5) -> None:
        self.api = api
        self.namespace = namespace
        self._retry_s = retry_s
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._user = ""

    @classmethod
    def connect(cls, namespace: str | None = None, context: str | None = None) -> Cluster:
        """The cluster of a kubeconfig's context, or the one that this process is a pod of.

        Raises:
            ClusterUnreachable: there is no usable configuration.
        """
        try:
            try:
                api = config.new_client_from_config(context=context)
                _, active = config.list_kube_config_contexts()
                if context:
                    active = next(c for c in config.list_kube_config_contexts()[0] if c["name"] == context)
                default = active["context"].get("namespace", "default")
            except config.ConfigException:
                if context:
                    raise
                configuration = client.Configuration()
                config.load_incluster_config(client_configuration=configuration)
                api, default = client.ApiClient(configuration), _own_namespace()
        except (config.ConfigException, OSError) as error:
            raise ClusterUnreachable(f"no usable Kubernetes configuration: {error}; set KUBECONFIG") from None
        return cls(api, namespace or default)

    def get(self, name: str) -> Service:
        """The InferenceService as it is now.

        Raises:
            ServiceNotFound: there is none.
        """
        call = self._objects.get_namespaced_custom_object
        try:
            found = self._ask(lambda: call(*_SERVING, self.namespace, _PLURAL, name, **_limits()))
        except ApiException as error:
            if error.status == 404:
                raise ServiceNotFound(f"no InferenceService {name} in namespace {self.namespace}") from None
            raise _explained(error, "read") from None
        return Service.from_object(found)

    def patch_spec(self, service: Service, spec: Any, *, dry_run: bool = False) -> Service:
        """Merge `spec` into the service's, if it is still the version that was read.

        Raises:
            Conflict: it isn't.
            RolloutError: KServe or the API server refuses it.
        """
        options = {"dry_run": "All"} if dry_run else {}
        return self._patch(self._objects.patch_namespaced_custom_object, service, {"spec": spec}, options)

    def patch_annotations(self, service: Service, annotations: dict[str, str]) -> Service:
        """Merge annotations into the service's status, if it is still the version that was read.

        Raises:
            Conflict: it isn't.
        """
        call = self._objects.patch_namespaced_custom_object_status
        return self._patch(call, service, {"status": {"annotations": annotations}}, {})

    def _patch(self, call: Any, service: Service, body: dict[str, Any], options: dict[str, Any]) -> Service:
        body = {"metadata": {"resourceVersion": service.resource_version}, **body}
        where = (*_SERVING, self.namespace, _PLURAL, service.name, body)
        options = {"field_manager": OURS, "_content_type": _MERGE, **_limits(), **options}
        try:
            return Service.from_object(self._ask(lambda: call(*where, **options)))
        except ApiException as error:
            if error.status == _CONFLICT:
                raise Conflict from None
            raise _explained(error, "change") from None

    def route_exists(self, name: str) -> bool:
        """Whether the Gateway API route that carries a Standard service's weights is there."""
        where = ("gateway.networking.k8s.io", "v1", self.namespace, "httproutes", name)
        try:
            self._ask(lambda: self._objects.get_namespaced_custom_object(*where, **_limits()))
        except ApiException as error:
            if error.status == 404:
                return False
            raise _explained(error, "read the HTTPRoute of") from None
        return True

    def replicas(self, deployment: str) -> int | None:
        """Ready replicas of a Deployment; None where there is none."""
        where = ("apps", "v1", self.namespace, "deployments", deployment)
        try:
            found = self._ask(lambda: self._objects.get_namespaced_custom_object_status(*where, **_limits()))
        except ApiException as error:
            if error.status == 404:
                return None
            raise _explained(error, "read the Deployments of") from None
        return int((found.get("status") or {}).get("readyReplicas") or 0)

    def event(self, service: Service, reason: str, message: str, *, warning: bool = False) -> None:
        """Record an Event on the service; one that can't be recorded stops nothing.

        It carries the newest entry of the service's history, which is what it tells about.
        """
        time_now = now().replace("+00:00", "Z")
        newest = read_history(service.annotations)[-1:]
        body = {
            "metadata": {
                "generateName": f"{service.name}-rollout-",
                "namespace": self.namespace,
                "annotations": {ENTRY: json.dumps(asdict(newest[0]))} if newest else {},
            },
            "involvedObject": {
                "apiVersion": "/".join(_SERVING),
                "kind": "InferenceService",
                "namespace": self.namespace,
                "name": service.name,
                "uid": service.uid,
                "resourceVersion": service.resource_version,
            },
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": OURS},
            "reportingComponent": OURS,
            "reportingInstance": self.user(),
            "firstTimestamp": time_now,
            "lastTimestamp": time_now,
            "count": 1,
        }
        try:
            self._ask(lambda: self._core.create_namespaced_event(self.namespace, body, **_limits()))
        except (ApiException, RolloutError):
            return

    def told(self, service: Service) -> tuple[Entry, ...]:
        """What Events on the service tell of its rollouts; nothing where the user may not read Events."""
        which = {"field_selector": f"involvedObject.uid={service.uid}"}
        try:
            found = self._ask(lambda: self._core.list_namespaced_event(self.namespace, **which, **_limits()))
        except (ApiException, RolloutError):
            return ()
        return tuple(_entries(event.metadata.annotations or {} for event in found.items))

    def user(self) -> str:
        """Who the API server says we are; asked once."""
        if not self._user:
            reviews = client.AuthenticationV1Api(self.api)
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            try:
                answer = self._ask(lambda: reviews.create_self_subject_review(body, **_limits()))
                self._user = answer.status.user_info.username or "unknown"
            except ApiException:
                self._user = "unknown"
        return self._user

    def missing(self, rights: tuple[Right, ...], name: str) -> tuple[Right, ...]:
        """Those that the user lacks for the service `name`, by SelfSubjectAccessReview."""
        return tuple(right for right in rights if not self._allowed(right, name))

    def demand(self, rights: tuple[Right, ...], name: str) -> None:
        """See that the user has all of them.

        Raises:
            MissingRights: some are missing; the message lists them.
        """
        if lacking := self.missing(rights, name):
            lines = "".join(f"\n  {right}: {right.why}" for right in lacking)
            raise MissingRights(
                f"{self.user()} may not do this in namespace {self.namespace}:{lines}\n"
                "manifests/rollout/rbac.yaml has the Role"
            )

    def _allowed(self, right: Right, name: str) -> bool:
        attributes = {
            "namespace": self.namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": right.resource,
            "subresource": right.subresource,
            # A Role with resourceNames allows nothing to a review without a name.
            "name": right.named.format(name),
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        reviews = client.AuthorizationV1Api(self.api)
        try:
            answer = self._ask(lambda: reviews.create_self_subject_access_review(body, **_limits()))
        except ApiException as error:
            raise _explained(error, "ask for the rights on") from None
        return bool(answer.status.allowed)

    def _ask(self, request: Callable[[], Any]) -> Any:
        """Send a request, again where the server is at fault; a patch sent twice is a conflict at worst."""
        for attempt in range(_TRIES):
            try:
                return request()
            except ApiException as error:
                if error.status not in _TRANSIENT:
                    raise
                failure = _message(error)
            except (HTTPError, OSError) as error:
                failure = str(error)
            if attempt == _TRIES - 1:
                raise ClusterAway(
                    f"the Kubernetes API doesn't answer ({failure}). The rollout stays as it is; try again"
                )
            time.sleep(self._retry_s * 2**attempt)
        raise AssertionError("unreachable")


def _own_namespace() -> str:
    """That of the pod that this process runs in."""
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _entries(annotations: Iterable[dict[str, str]]) -> Iterator[Entry]:
    for found in annotations:
        try:
            yield Entry.from_object(json.loads(found[ENTRY]))
        except (ValueError, KeyError, TypeError):
            continue  # an Event of KServe's, or of another version


def _limits() -> dict[str, Any]:
    return {"_request_timeout": _TIMEOUT_S}


def _explained(error: ApiException, action: str) -> RolloutError:
    return ClusterUnreachable(f"the API server refuses to {action} the InferenceService: {_message(error)}")


def _message(error: ApiException) -> str:
    """What the API server says, without headers and JSON."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return error.reason or str(error.status)
