"""Which judges a rollout has: options in, judges out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.verdict import Judge

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True, slots=True)
class Judging:
    """How the canary is judged, as the command line gave it.

    It is kept with the rollout's record on the InferenceService, so that a resumed rollout judges the same
    way: every field is a string, number, bool, None or a list of those, and has a default.
    """

    @property
    def asks_pods(self) -> bool:
        """Whether judges ask pods through the API server, which takes the rights `rollout.rights.PODS`."""
        return False

    def judges(self, api: ApiClient) -> list[Judge]:
        """The judges; `api` reaches the cluster with the user's rights.

        Raises:
            RolloutError: an option can't be used, such as a file that isn't there.
        """
        return []
