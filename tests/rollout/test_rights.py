"""The Role in manifests/rollout grants what rollouts do, and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from rollout import rights
from rollout.record import Mode

MANIFEST = Path(__file__).resolve().parents[2] / "manifests" / "rollout" / "rbac.yaml"

Granted = tuple[str, str, str]


def granted(role: dict[str, Any]) -> Counter[Granted]:
    return Counter(
        (verb, resource, group)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    )


def test_role_grants_exactly_the_rights_that_are_checked() -> None:
    role, binding = yaml.safe_load_all(MANIFEST.read_text())
    listed = Counter(
        (right.verb, "/".join(filter(None, (right.resource, right.subresource))), right.group)
        for right in rights.ALL
    )
    assert granted(role) == listed
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_rights_follow_the_mode_and_the_judges() -> None:
    assert rights.ROUTES[0] in rights.needed(Mode.STANDARD)
    assert rights.ROUTES[0] not in rights.needed(Mode.KNATIVE)
    assert rights.REPLICAS[0] not in rights.needed(Mode.KNATIVE)
    all_of_them = rights.needed(Mode.STANDARD, metrics=True, golden=True)
    assert {*all_of_them, *rights.HISTORY} == set(rights.ALL)


def test_prompts_may_be_sent_to_pods_only_where_a_golden_set_is() -> None:
    create, get = rights.GOLDEN[0], rights.METRICS[0]
    assert (create.verb, create.subresource) == ("create", "proxy")
    assert create not in rights.needed(Mode.KNATIVE, metrics=True)
    assert create in rights.needed(Mode.KNATIVE, golden=True)
    assert get not in rights.needed(Mode.KNATIVE, golden=True)
    assert rights.LIST_PODS[0] not in rights.needed(Mode.KNATIVE)
