"""What a rollout does on the cluster, as rights. manifests/rollout/rbac.yaml grants exactly these."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.record import Mode


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of object in the service's namespace.

    Attributes:
        why: what the rollout does with it.
        named: the object's name, with `{}` for the service's; empty for objects of any name.
    """

    verb: str
    resource: str
    group: str
    why: str
    subresource: str = ""
    named: str = ""

    def __str__(self) -> str:
        kind = ".".join(filter(None, (self.resource, self.group)))
        return f"{self.verb} {kind}" + (f"/{self.subresource}" if self.subresource else "")


_SERVING = "serving.kserve.io"

SERVICE = (
    Right("get", "inferenceservices", _SERVING, "to read the service", named="{}"),
    Right("patch", "inferenceservices", _SERVING, "to set the canary and its traffic", named="{}"),
    Right("patch", "inferenceservices", _SERVING, "to keep the rollout's state", "status", "{}"),
    Right("create", "events", "", "to say on the service what was done"),
)
ROUTES = (
    Right(
        "get",
        "httproutes",
        "gateway.networking.k8s.io",
        "to see that traffic can be split",
        named="{}-predictor",
    ),
)
# Canaries in Standard mode have the replicas that the rollout gives them.
REPLICAS = (Right("get", "deployments", "apps", "to size the canary by what serves", "status"),)
# Asking pods through the API server: their metrics, and prompts for the quality gate.
LIST_PODS = (Right("list", "pods", "", "to find each revision's pods"),)
METRICS = (Right("get", "pods", "", "to read the pods' metrics", "proxy"),)
GOLDEN = (Right("create", "pods", "", "to send the golden prompts", "proxy"),)
# Without it `history` knows what the annotations say.
HISTORY = (Right("list", "events", "", "to read what Events tell of earlier rollouts"),)
ALL = SERVICE + ROUTES + REPLICAS + LIST_PODS + METRICS + GOLDEN + HISTORY


def needed(mode: Mode, *, metrics: bool = False, golden: bool = False) -> tuple[Right, ...]:
    """The rights for a rollout in one mode.

    Args:
        metrics: whether the pods' metrics are read through the API server.
        golden: whether the golden set is sent so.
    """
    return (
        SERVICE
        + (ROUTES + REPLICAS if mode is Mode.STANDARD else ())
        + (LIST_PODS if metrics or golden else ())
        + (METRICS if metrics else ())
        + (GOLDEN if golden else ())
    )
