"""The ledger of the fault tests: what was tried, survived and lost, written to docs/reliability.md.

`make test-faults` sets KSERVE_LLAMACPP_FAULT_REPORT to the page. Rows are kept in outcomes.json beside this
file, so that a part of the tests can be run again without losing the others' rows; each says when and where.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

REPORT = "KSERVE_LLAMACPP_FAULT_REPORT"
ROWS = Path(__file__).with_name("outcomes.json")
INTRODUCTION = """\
# Reliability

Made by `make test-faults`, which writes this page; what each row does is in `tests/faults/`. A row whose test
fails stands here as lost. "Lost" counts what the fault took with it: requests of others, a server that had to
go on, an answer with somebody else's text. What a fault is bound to take, such as the streams of a killed
process, is told under "What was seen". Rows can come from several runs, of parts of the tests:
`make test-faults ARGS='-k soak' SOAK=8`.
"""


@dataclass(frozen=True)
class Row:
    """One fault's outcome."""

    fault: str
    tried: str
    survived: str
    lost: str
    seen: str
    when: str
    machine: str


Record = Callable[..., None]


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Notes the outcome of the test's fault, once at its end."""

    def note(fault: str, tried: Any, survived: Any, lost: Any, seen: str = "") -> None:
        row = Row(fault, str(tried), str(survived), str(lost), seen, _now(), _machine())
        request.node.stash[_ROW] = row

    return note


_ROW = pytest.StashKey[Row]()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if os.environ.get(REPORT) and report.when == "call" and not report.skipped:
        row = item.stash.get(_ROW, None)
        if report.failed:
            reason = call.excinfo.exconly().splitlines()[0][:120] if call.excinfo else ""
            row = Row(item.name, "1", "0", "1", f"failed: {reason}", _now(), _machine())
        if row is not None:
            _keep(item.nodeid, row)
    return report


def _keep(test: str, row: Row) -> None:
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    ROWS.write_text(json.dumps(rows | {test: asdict(row)}, indent=1) + "\n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    page = os.environ.get(REPORT)
    if not page or not ROWS.exists():
        return
    rows = json.loads(ROWS.read_text())
    lines = [INTRODUCTION]
    lines.append("| Fault | Tried | Survived | Lost | What was seen | Run at (UTC) | On |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    lines += ["| " + " | ".join(x.replace("|", "\\|") for x in row.values()) + " |" for row in rows.values()]
    Path(page).write_text("\n".join(lines) + "\n")


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
            break
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB"
