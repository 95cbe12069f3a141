"""Where a revision's counters come from: Prometheus, or the pods themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rollout.analysis.counters import NAMES, PodLook, Sample, read_look
from rollout.pods import Pods, PodStatus, PodUnreachable
from rollout.verdict import Revision

# A revision's pods by their names: those of a Deployment, and Knative's, which adds a word.
SELECTOR = 'namespace="{namespace}",pod=~"{name}(-deployment)?-[a-z0-9]{{1,10}}-[a-z0-9]{{5}}"'
SECONDS = 10.0
_AT_A_TIME = 16


class SourceUnavailable(Exception):
    """A source didn't answer, or not with metrics; the message says which and why."""


class Source(Protocol):
    """Looks at a revision."""

    def read(self, revision: Revision) -> Mapping[str, PodLook]:
        """A look at each of the revision's pods, by name.

        Raises:
            SourceUnavailable: they can't be had now.
        """


class PrometheusSource:
    """Asks a Prometheus server that scrapes the pods.

    Args:
        url: of the server.
        selector: PromQL label matchers of one revision, with the fields `namespace`, `name` and `service`.
    """

    def __init__(self, url: str, selector: str = SELECTOR) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"
        self._selector = selector

    def read(self, revision: Revision) -> Mapping[str, PodLook]:
        matchers = self._selector.format(
            namespace=revision.namespace, name=revision.name, service=revision.service
        )
        query = f'{{__name__=~"{"|".join(NAMES)}",{matchers}}}'
        try:
            answer = httpx.post(self._url, data={"query": query}, timeout=SECONDS)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SourceUnavailable(f"Prometheus at {self._url} doesn't answer: {error}") from error
        if body.get("status") != "success":
            raise SourceUnavailable(f"Prometheus refuses the query {query}: {body.get('error')}")
        pods = _by_pod(body["data"]["result"])
        if not pods:
            raise SourceUnavailable(f"Prometheus knows no metrics of {revision.name}: {query} gives nothing")
        return pods


def _by_pod(result: list[dict[str, Any]]) -> dict[str, PodLook]:
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for series in result:
        labels = series["metric"]
        pod = labels.get("pod") or labels.get("instance", "")
        samples[pod].append(Sample(labels["__name__"], labels, float(series["value"][1])))
    return {pod: read_look(found) for pod, found in samples.items()}


class PodSource:
    """Scrapes `/metrics` of every pod through the API server, several at a time.

    Args:
        pods: reaches them.
    """

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    def read(self, revision: Revision) -> Mapping[str, PodLook]:
        try:
            found = self._pods.of(revision)
        except OSError as error:
            raise SourceUnavailable(f"the metrics of {revision.name}: {error}") from error
        ready = [pod for pod in found if pod.ready]
        if not ready:
            raise SourceUnavailable(f"{revision.name} has no ready pod")
        with ThreadPoolExecutor(min(_AT_A_TIME, len(ready))) as pool:
            texts = list(pool.map(lambda pod: self._text(revision, pod), ready))
        errors = [text for text in texts if isinstance(text, PodUnreachable)]
        if len(errors) == len(ready):
            raise SourceUnavailable(f"the metrics of {revision.name}: {errors[0]}") from errors[0]
        looks = {pod.name: PodLook(None, restarts=pod.restarts, ready=pod.ready) for pod in found}
        for pod, text in zip(ready, texts, strict=True):
            if isinstance(text, str):
                looks[pod.name] = read_look(_samples(text, revision), pod.restarts)
        return looks

    def _text(self, revision: Revision, pod: PodStatus) -> str | PodUnreachable:
        try:
            return self._pods.get(revision.namespace, pod.name, "metrics")
        except PodUnreachable as error:
            return error


def _samples(text: str, revision: Revision) -> Iterator[Sample]:
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield Sample(sample.name, sample.labels, sample.value)
    except ValueError as error:
        raise SourceUnavailable(f"a pod of {revision.name} answers something else than metrics") from error
