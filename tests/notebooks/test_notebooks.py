"""Every notebook runs from top to bottom with small sizes, and leaves no server behind."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent.parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBERS = range(1, 7)
SMALL = {
    "NOTEBOOK_BURSTS": "1",
    "NOTEBOOK_CANARY_REQUESTS": "10",
    "NOTEBOOK_CLIENTS": "2",
    "NOTEBOOK_PROMPT_TOKENS": "24",
    "NOTEBOOK_PROMPT_WORDS": "60",
    "NOTEBOOK_REQUESTS": "1",
    "NOTEBOOK_ROUNDS": "1",
    "NOTEBOOK_TOKENS": "8",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
MARK = "NOTEBOOK_TEST_RUN"
TIMEOUT_SECONDS = 600

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def mark(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a small run; every process that comes of it carries the mark."""
    value = uuid.uuid4().hex
    for name, size in {**SMALL, MARK: value, "KSERVE_LLAMACPP_TEST_MODEL": str(model_path)}.items():
        monkeypatch.setenv(name, size)
    return value


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def execute(notebook: Any) -> None:
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=TIMEOUT_SECONDS, kernel_name="python3", resources=resources).execute()


def left_over(mark: str) -> list[str]:
    """Command lines of the run's processes that still live."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != psutil.Process().pid:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def outputs(notebook: Any, kind: str) -> list[Any]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output for cell in cells for output in cell.outputs if output.output_type == kind]


# A judge needs minutes of traffic, and scaling to zero and two platforms side by side take their time too.
LONG = {"3-canary", "4-scale-to-zero", "5-kserve-and-ray"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_runs_and_leaves_nothing_behind(path: Path, mark: str) -> None:
    notebook = read(path)
    execute(notebook)
    assert left_over(mark) == []
    assert outputs(notebook, "error") == []
    drawn = [output for output in outputs(notebook, "display_data") if "image/png" in output.data]
    skipped = sum("Skipped: `make" in output.text for output in outputs(notebook, "stream"))
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert len(drawn) == code.count("plt.show()") - skipped
    warnings = [o.text for o in outputs(notebook, "stream") if o.name == "stderr"]
    assert warnings == []


def test_servers_end_after_an_error_too(mark: str) -> None:
    notebook = read(NOTEBOOKS[0])
    starts = next(
        i
        for i, cell in enumerate(notebook.cells)
        if "tour.serve(" in cell.source and cell.cell_type == "code"
    )
    check = nbformat.v4.new_code_cell(
        "assert server.process.poll() is None\nraise RuntimeError('as it happens')"
    )
    notebook.cells.insert(starts + 1, check)
    with pytest.raises(CellExecutionError, match="as it happens"):
        execute(notebook)
    assert left_over(mark) == []


def test_there_are_six_in_order() -> None:
    assert [path.name.partition("-")[0] for path in NOTEBOOKS] == [str(number) for number in NUMBERS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
        assert cell.metadata == {}
    assert "language_info" not in notebook.metadata or set(notebook.metadata["language_info"]) <= {"name"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_reads_as_a_tour(path: Path) -> None:
    """A heading first, every step explained, the servers stopped, and links that lead somewhere."""
    notebook = read(path)
    assert notebook.cells[0].source.startswith(f"# {path.name[0]}. ")
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds.count("markdown") >= kinds.count("code") // 2
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"][-1].count("tour.stop_all()")
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in (part.partition(")")[0] for part in text.split("](")[1:]):
        assert (FOLDER / link).exists(), link
