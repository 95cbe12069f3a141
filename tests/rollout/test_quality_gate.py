"""The golden set on real servers: the demo model, and two other quantisations of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from golden_set import ENTRIES, write_golden_set
from pod_api import NAMESPACE, PodApi, serving_pods
from rich.console import Console
from server_process import Server, running_server

from rollout.pods import Pods
from rollout.quality.answers import Answer, NoAnswer, PodEndpoint, UrlEndpoint, ask, mean_logprob
from rollout.quality.gate import Quality, QualityLimits
from rollout.quality.golden import GoldenPrompt, load_golden
from rollout.quality.judge import QualityJudge
from rollout.quality.report import Report, html, table
from rollout.quality.run import GoldenRun
from rollout.quality.scoring import Compared
from rollout.verdict import Decision, Revision, Verdict

STABLE = Revision("smol-1", "smol", NAMESPACE, 100, "rev=1", "smol")
CANARY = Revision("smol-2", "smol", NAMESPACE, 0, "rev=2", "smol")
GREETING = GoldenPrompt("hello", ({"role": "user", "content": "Say hello."},), max_tokens=16)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[GoldenPrompt, ...]:
    return load_golden(write_golden_set(tmp_path_factory.mktemp("golden") / "set.jsonl"))


@pytest.fixture(scope="module")
def worse_server(worse_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(worse_model_path, tmp_path_factory.mktemp("worse") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def other_server(other_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(other_model_path, tmp_path_factory.mktemp("other") / "log") as server:
        yield server


def run(golden: tuple[GoldenPrompt, ...], stable: Server, canary: Server) -> Quality:
    endpoints = UrlEndpoint(stable.http_url), UrlEndpoint(canary.http_url)
    return GoldenRun(golden, *endpoints, (stable.model_name, canary.model_name)).wait()


def verdict_of(judge: QualityJudge, percent: int = 0) -> Verdict:
    """What the judge says in the end."""
    canary = Revision("smol-2", "smol", NAMESPACE, percent, "rev=2", "smol")
    deadline = time.monotonic() + 200
    while (verdict := judge.judge(STABLE, canary, 0.0)).decision is Decision.WAIT:
        assert re.search(r"the golden set: \d of 6 prompts compared", verdict.reasons[0])
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return verdict


def test_a_worse_quantisation_is_rolled_back_with_a_report(
    golden: tuple[GoldenPrompt, ...], server: Server, worse_server: Server, tmp_path: Path
) -> None:
    urls = {"smol-1": server.http_url, "smol-2": worse_server.http_url}
    judge = QualityJudge(golden, lambda revision: UrlEndpoint(urls[revision.name]), QualityLimits(), tmp_path)
    verdict = verdict_of(judge)
    assert verdict.decision is Decision.ROLL_BACK
    assert any("nats per token less likely than its own" in reason for reason in verdict.reasons)
    (report,) = verdict.reports
    assert Path(report).name == "smol-smol-2-0.html"
    assert "Roll back" in Path(report).read_text()
    assert judge.judge(STABLE, CANARY, 1.0) is verdict


def test_another_quantisation_that_is_hardly_worse_passes_the_likelihood(
    golden: tuple[GoldenPrompt, ...], server: Server, worse_server: Server, other_server: Server
) -> None:
    other, worse = (run(golden, server, canary) for canary in (other_server, worse_server))
    assert other.agreement < 1
    assert other.logprob_drop is not None
    assert worse.logprob_drop is not None
    assert 0 < other.logprob_drop < 0.5 < worse.logprob_drop


def test_the_same_model_changes_nothing(golden: tuple[GoldenPrompt, ...], server: Server) -> None:
    quality = run(golden, server, server)
    assert quality.verdict(QualityLimits()).decision is Decision.PROCEED
    assert quality.logprob_drop == pytest.approx(0, abs=0.05)
    assert [one.prompt.id for one in quality.compared] == [entry["id"] for entry in ENTRIES]


def test_the_likelihood_of_a_models_own_answer_is_its_own(server: Server) -> None:
    endpoint = UrlEndpoint(server.http_url)
    answer = ask(endpoint, "smol", GREETING)
    assert answer.error is None
    assert answer.mean_logprob is not None
    assert answer.mean_logprob < 0
    again = mean_logprob(endpoint, "smol", GREETING, answer.text)
    # llama.cpp rounds differently where the prompt is cached.
    assert again == pytest.approx(answer.mean_logprob, abs=0.2)
    nonsense = mean_logprob(endpoint, "smol", GREETING, "Xylophone 77 %% purple")
    assert nonsense is not None
    assert nonsense < answer.mean_logprob - 1


@pytest.mark.parametrize(
    "text",
    ['"quoted" \\ back', "two\nlines\twith tab", "Grüße, 世界 🌍", "a\u200bb\x07c", "{curly} | [x] ::= y"],
)
def test_any_text_can_be_asked_about(server: Server, text: str) -> None:
    assert mean_logprob(UrlEndpoint(server.http_url), "smol", GREETING, text) is not None


def test_pods_are_asked_through_the_api_server(server: Server) -> None:
    pods = PodApi({"rev=1": {"smol-1-abc": server.http_url}})
    with serving_pods(pods):
        endpoint = PodEndpoint(Pods(pods.client()), STABLE)
        answer = ask(endpoint, "smol", GREETING)
        assert answer.error is None
        wrong = ask(endpoint, "another", GREETING)
        assert wrong.error is not None
        assert "status 404" in wrong.error
        pods.pods.clear()
        with pytest.raises(NoAnswer, match="no ready pod"):
            endpoint.post("v1/chat/completions", {})


def test_a_canary_that_does_not_answer_is_rolled_back(
    golden: tuple[GoldenPrompt, ...], server: Server, tmp_path: Path
) -> None:
    def endpoint(revision: Revision) -> UrlEndpoint:
        # A page that isn't there: the canary's model does not serve chat.
        return UrlEndpoint(server.http_url if revision is STABLE else server.http_url + "/nowhere")

    verdict = verdict_of(QualityJudge(golden, endpoint, QualityLimits(), None))
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.reasons[0].startswith("answered: 0 of 6 on the golden set, and 6 on the stable")
    assert verdict.reports == ()


def test_a_stable_revision_that_does_not_answer_is_waited_for(
    golden: tuple[GoldenPrompt, ...], server: Server
) -> None:
    judge = QualityJudge(golden, lambda _: UrlEndpoint(server.http_url + "/nowhere"), QualityLimits(), None)
    deadline = time.monotonic() + 60
    while "doesn't answer" not in (verdict := judge.judge(STABLE, CANARY, 0.0)).reasons[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert verdict.decision is Decision.WAIT
    assert "404" in verdict.reasons[0]


def test_at_100_percent_nothing_is_compared(golden: tuple[GoldenPrompt, ...]) -> None:
    def nobody(revision: Revision) -> UrlEndpoint:
        raise AssertionError

    judge = QualityJudge(golden, nobody, QualityLimits(), None)
    canary = Revision("smol-2", "smol", NAMESPACE, 100, "rev=2", "smol")
    assert judge.judge(STABLE, canary, 0.0).decision is Decision.PROCEED


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onerror"}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_hostile_answers_as_text_and_needs_no_other_file() -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)> [bold red]x[/bold red] [/nope]"
    quality = Quality([Compared(GREETING, Answer("hello", 1.0), Answer(hostile, 2.0), 0.8)])
    report = Report(STABLE, CANARY, quality, QualityLimits())
    page = _Page()
    page.feed(html(report))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert hostile in page.text
    assert "0.80 nats per token less likely" in page.text
    console = Console(width=200, record=True)
    console.print(table(report))
    assert "[bold red]x[/bold red] [/nope]" in console.export_text()
