"""Write the table of docs/chat-formats.md anew from what is learnt from llama.cpp's templates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from predictor.chat.format import ChatFormat  # noqa: E402
from predictor.chat.template import ChatTemplate  # noqa: E402

PAGE = ROOT / "docs" / "chat-formats.md"
START = "<!-- Made by scripts/chat_formats_page.py -->"
HEAD = "| Template | Calls begin with | Arguments | Calls in an answer | Thoughts | Said in another way |"


def main() -> None:
    """Put the table in place of the one that is there."""
    before, found, _ = PAGE.read_text().partition(START)
    if not found:
        sys.exit(f"{PAGE} has no line {START}")
    PAGE.write_text(f"{before}{START}\n\n{table()}\n")


def table() -> str:
    """A row for each template of the pinned llama.cpp."""
    build = ROOT / "scripts" / "build_llama.py"
    found = subprocess.run(
        [sys.executable, build, "templates"], stdout=subprocess.PIPE, text=True, check=True
    )
    rows = [HEAD, "| --- " * HEAD.count(" |") + "|"]
    formats: list[ChatFormat] = []
    for path in sorted(Path(found.stdout.strip()).glob("*.jinja"), key=lambda path: path.stem.lower()):
        learnt = ChatFormat(ChatTemplate(path.read_text(), "<s>", "</s>"))
        formats.append(learnt)
        rows.append("| " + " | ".join([path.stem, *_row(learnt)]) + " |")
    own, thinking = sum(f.has_own_calls for f in formats), sum(f.thinks for f in formats)
    counts = (
        f"{own} of these {len(formats)} have a form of their own for calls, and {thinking} have thoughts."
    )
    return "\n".join([*rows, "", counts])


def _row(learnt: ChatFormat) -> list[str]:
    form = learnt.form
    thoughts, roles = learnt.describe_thoughts(), learnt.describe_roles()
    others = ", ".join(part for part in roles.split(", ") if " as " in part)
    if not learnt.has_own_calls:
        calls = ["Hermes' form, by prompt", "JSON", "several"]
    elif form.channels is not None:
        header = "".join("NAME" if part is None else part for part in form.channels.call)
        calls = [_code(header), form.channels.arguments.name, _several(form.channels.several)]
    else:
        assert form.calls is not None
        several = _several(form.calls.between is not None)
        calls = [_code(form.calls.trigger), form.calls.arguments.name, several]
    return [*calls, _quoted(thoughts), others or "-"]


def _several(several: bool) -> str:
    return "several" if several else "one"


def _quoted(thoughts: str) -> str:
    """A description with its marks as code."""
    if "'" not in thoughts:
        return "-"
    return " ".join(_code(part) for part in thoughts.split("'")[1::2])


def _code(text: str) -> str:
    shown = text.strip().replace("\n", "\\n").replace("|", "\\|")
    return f"``{shown}``" if "`" in shown else f"`{shown}`"


if __name__ == "__main__":
    main()
