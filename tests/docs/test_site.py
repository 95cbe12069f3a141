"""The documentation's site builds without a warning, and its pages say what the code says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from server_process import Server

from predictor import __version__, documentation
from predictor.api import predict
from predictor.api.open_inference import generate, model
from predictor.settings import Settings, env_var, flag

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = ("architecture.md", "concepts.md", "contributing.md", "operations.md", "protocols.md")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


class Resources(HTMLParser):
    """Everything that a browser loads by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        loads = tag in ("script", "img", "iframe", "source") or (
            tag == "link" and values.get("rel") not in ("canonical", "next", "prev")
        )
        if loads and (address := values.get("src") or values.get("href")):
            self.found.add(address)


def test_site_needs_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for file in pages:
        resources = Resources()
        resources.feed(file.read_text())
        assert resources.found
        assert not {address for address in resources.found if "//" in address}, file.name
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"(?:@import|url\()\s*['\"]?https?:[^)]*", styles)


def test_diagrams_are_drawn_when_the_site_is_built(site: Path) -> None:
    page = (site / "architecture.html").read_text()
    assert "flowchart TB" not in page
    drawing = page[page.index("<svg id=") : page.index("</svg>", page.index("<svg id="))]
    assert "the model's own format" in drawing


def test_every_page_of_the_navigation_is_built(site: Path) -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = re.findall(r"[\w/-]+\.md", str(navigation))
    assert len(named) > 10
    assert [name for name in named if not (site / name).with_suffix(".html").exists()] == []


def test_reference_pages_are_what_the_code_says(server: Server) -> None:
    command = [sys.executable, ROOT / "scripts" / "reference_pages.py", "--check", server.http_url]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stderr


def test_options_page_has_every_option_with_its_default() -> None:
    rows = [line for line in (DOCS / "reference" / "options.md").read_text().splitlines() if "<br>" in line]
    assert len(rows) == len(Settings.model_fields)
    for row, (name, info) in zip(rows, Settings.model_fields.items(), strict=True):
        assert row.startswith(f"| `{flag(name)}`<br>`{env_var(name)}` |")
        if info.default and info.annotation is not bool and not info.is_required():
            assert f"| `{info.default}` |" in row


def test_every_alert_has_a_section_in_the_runbook() -> None:
    (spec,) = yaml.safe_load_all((ROOT / "manifests/overlays/monitoring/rules.yaml").read_text())
    alerts = [rule["alert"] for group in spec["spec"]["groups"] for rule in group["rules"]]
    assert re.findall(r"^### (\w+)$", (DOCS / "operations.md").read_text(), re.M) == alerts


def test_commands_of_the_first_page_are_the_readmes() -> None:
    """Where they are run."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\w+\n(.*?)^```$", (DOCS / "index.md").read_text(), re.M | re.S)
    assert len(blocks) == 3
    for block in blocks:
        assert all(line in readme for line in block.splitlines())
    assert blocks[1] in readme


def test_protocols_page_has_the_real_defaults() -> None:
    text = (DOCS / "protocols.md").read_text()
    limits = (model.DEFAULT_MAX_TOKENS, generate.DEFAULT_MAX_TOKENS, predict.DEFAULT_MAX_TOKENS)
    wanted = "V1 and V2 stop after {} tokens, `generate` after {}, `/predict` after {}".format(*limits)
    assert wanted in text


WRITES_OR_CHECKS = "(image-)?test|lint|bench|docs|reference|screenshots|audit|chart|release"


def test_every_check_is_in_the_contributors_table() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    checks = {name for name in targets if re.match(WRITES_OR_CHECKS, name)}
    rows = set(re.findall(r"^\| `make ([a-z-]+)", (DOCS / "contributing.md").read_text(), re.M))
    assert len(checks) > 10
    assert checks == rows


@pytest.mark.parametrize("page", PAGES)
def test_names_in_the_text_exist(page: str) -> None:
    """Options, files and make's targets, outside of commands."""
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.M | re.S)
    code = " ".join(re.findall(r"`([^`]+)`", text))
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", code))
    assert options <= {"--container", "--cluster", *(flag(field) for field in Settings.model_fields)}
    files = set(
        re.findall(r"\b(?:predictor|tests|docs|scripts|benchmarks|manifests|runtimes)/[\w/.-]*\w", code)
    )
    assert [name for name in files if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code)) <= targets


def test_messages_link_to_pages_that_are_published(site: Path) -> None:
    """And never to files of the repository, which a user of the package doesn't have."""
    names = {
        name for path, _ in strings() for name in re.findall(r"""\bpage\(["']([^"']+)""", path.read_text())
    }
    assert len(names) >= 3
    for name in names:
        path, _, anchor = name.partition("#")
        assert documentation.page(name).startswith(f"{documentation.SITE}/{__version__}/{path}.html")
        assert not anchor or f'id="{anchor}"' in (site / f"{path}.html").read_text(), name
    files = re.compile(r"\b(docs|tests|scripts)/\w|\b\w+\.md\b")
    assert [(path.name, text) for path, text in strings() if files.search(text) and "://" not in text] == []


def strings() -> Iterator[tuple[Path, str]]:
    """Every text in the code but docstrings."""
    for package in ("predictor", "rollout", "runtimes"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
                    yield path, node.value
