"""The page, its plots, and the doubts it must voice."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.measure import percentiles
from benchmarks.results import LLAMA_SERVER, OURS, Measurement, Run, Trial
from benchmarks.scenarios import DISTINCT, SHARED


def measurement(server: str, point: str, round_: int, tokens_per_second: float) -> Measurement:
    return Measurement(
        scenario="distinct",
        point=point,
        server=server,
        round=round_,
        metrics={"tokens_per_second": tokens_per_second, "first_token_p95": 0.5},
        seconds=10.0,
        prompt_tokens=174,
        completion_tokens=192,
        server_cpu_seconds=4.0,
        server_memory_bytes=512 * 2**20,
        client_cpu_seconds=0.25,
    )


@pytest.fixture
def run() -> Run:
    return Run(
        date="2026-01-02 03:04 UTC",
        command="python -m benchmarks --model demo.gguf",
        machine={"CPU": "a CPU", "Cores": "2"},
        versions={"Python": "3.11.7"},
        server_commands={"distinct": {OURS: "kserve-llamacpp serve demo.gguf"}},
        measurements=[
            measurement(LLAMA_SERVER, "1 client", 0, 80.0),
            measurement(OURS, "1 client", 0, 90.0),
            measurement(OURS, "1 client", 1, 110.0),
            measurement(LLAMA_SERVER, "1 client", 1, 80.0),
            measurement(OURS, "4 clients", 0, 40.0),
            measurement(LLAMA_SERVER, "4 clients", 0, 80.0),
        ],
    )


def test_the_table_shows_medians_ranges_ratio_and_verdict(run: Run) -> None:
    rows = report.table(run, DISTINCT)
    assert rows[0] == [
        "output tokens/s",
        "1 client",
        "100 (90 to 110)",
        "80",
        "1.25",
        "at least 1",
        "yes",
    ]
    assert rows[1] == ["output tokens/s", "4 clients", "40", "80", "0.500", "at least 1", "no"]


def test_what_was_not_measured_has_no_figure_and_no_verdict(run: Run) -> None:
    ours_alone = dataclasses.replace(run, measurements=[m for m in run.measurements if m.server == OURS])
    assert report.table(ours_alone, DISTINCT)[0][2:] == ["100 (90 to 110)", "-", "at least 1", "-"]
    row = next(row for row in report.table(run, DISTINCT) if row[0] == "inter-token latency, p99, s")
    assert row[2:] == ["-", "-", "-", "", ""]


def test_missed_goals_are_named(run: Run) -> None:
    (missed,) = report.missed_goals(run, [DISTINCT])
    assert missed == (
        "Distinct prompts, 4 clients: output tokens/s is 0.500 times llama-server's, goal at least 1"
    )


def test_different_work_and_failures_are_remarked(run: Run) -> None:
    assert report.remarks(run, DISTINCT) == []
    odd = dataclasses.replace(run.measurements[4], completion_tokens=100, errors=("HTTP 503:\n busy",))
    doubtful = dataclasses.replace(run, measurements=[*run.measurements[:4], odd, run.measurements[5]])
    failed, different = report.remarks(doubtful, DISTINCT)
    assert failed == f"{OURS}, 4 clients, round 1: 1 errors, the first: HTTP 503: busy"
    assert "4 clients: the servers processed different numbers of tokens" in different


def test_the_page_holds_what_a_reader_needs(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    report.write(run, [DISTINCT, SHARED], page)
    text = page.read_text()
    for needed in (
        "python -m benchmarks --model demo.gguf",
        "a CPU",
        "3.11.7",
        "2026-01-02 03:04 UTC",
        "serve demo.gguf",
    ):
        assert needed in text
    assert "| output tokens/s | 4 clients | 40 | 80 | 0.500 | at least 1 | no |" in text
    assert "| 1 client | kserve-llamacpp | 174 | 192 | 4 | 512 | 2.5 % | 0.0 % |" in text
    assert "![Distinct prompts](benchmarks-distinct.svg)" in text
    assert SHARED.title not in text, "a scenario that was not run has no section"


def test_a_percentile_takes_values_beyond_it() -> None:
    assert percentiles("wait", [1.0] * 16, (50, 90, 95, 99)) == {"wait_p50": 1.0, "wait_p90": 1.0}
    assert "wait_p95" in percentiles("wait", [1.0] * 20, (50, 95, 99))
    assert "wait_p99" not in percentiles("wait", [1.0] * 99, (50, 95, 99))
    assert "wait_p99" in percentiles("wait", [1.0] * 100, (50, 95, 99))
    assert percentiles("wait", [], (50,)) == {}


def test_the_page_says_which_flags_llama_server_got_and_why(run: Run) -> None:
    trials = {"distinct": [Trial("", 80.0, False), Trial("-b 512", 85.0, True), Trial("-kvu", None, False)]}
    page = report.render(dataclasses.replace(run, trials=trials), [DISTINCT], {})
    assert (
        "llama-server's flags, by output tokens/s, at 8 clients: none 80, `-b 512` 85 (taken), `-kvu` -."
    ) in page
    assert "flags, by" not in report.render(run, [DISTINCT], {})


def test_tables_are_well_formed(run: Run) -> None:
    lines = report.render(run, [DISTINCT], {}).splitlines()
    widths = [line.count("|") for line in lines]
    for before, after in pairwise(widths):
        assert not (before and after and before != after), "rows of one table differ in their columns"


def test_the_plot_is_an_svg_with_each_server_in_its_legend(run: Run, tmp_path: Path) -> None:
    report.write(run, [DISTINCT], tmp_path / "benchmarks.md")
    svg = tmp_path / "benchmarks-distinct.svg"
    texts = {element.text for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {OURS, LLAMA_SERVER, "1 client", "4 clients", "output tokens/s"} <= texts


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (64, "64"), (0.0123456, "0.0123"), (99.96, "100"), (1234.5, "1234"), (12.345, "12.3")],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert report.number(value) == shown
