"""What each client did, as a table in docs/clients.md."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- Written by `make test-clients`. -->\n", "<!-- End of what it wrote. -->"

ENVIRONMENTS = ("venv-llama-index", "venv-pydantic-ai", "venv")
_LIST = """import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"].lower(): d.version for d in m.distributions()}))"""


@dataclass(frozen=True)
class Row:
    """One client over one protocol.

    Attributes:
        client: its package.
        protocol: which it speaks here.
        scripted, real: what came of the agent's loop, "" where it wasn't tried.
    """

    client: str
    protocol: str
    scripted: str = ""
    real: str = ""


def versions(folder: Path) -> dict[str, str]:
    """Versions of the packages of clients that are installed in a folder, by their names."""
    found: dict[str, str] = {}
    for name in ENVIRONMENTS:
        python = folder / name / "bin" / "python"
        listed = subprocess.run([python, "-c", _LIST], capture_output=True, text=True, check=True)
        found |= json.loads(listed.stdout)
    for manifest in folder.glob("node_modules/**/package.json"):
        if manifest.parent.parent.name == "node_modules" or manifest.parent.parent.name.startswith("@"):
            package = json.loads(manifest.read_text())
            found.setdefault(package.get("name", ""), package.get("version", ""))
    return found


def write(page: Path, rows: list[Row], installed: dict[str, str]) -> None:
    """Put the table into the page, in the place of the last one."""
    lines = ["| Client | Protocol | Scripted model | Demo model |", "| --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: (row.client.lower(), row.protocol)):
        version = installed.get(row.client, "")
        lines.append(f"| `{row.client}` {version} | {row.protocol} | {row.scripted} | {row.real} |")
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after)
