"""What chat formats cost: learning one at the start, and reading a token while it streams.

    python -m benchmarks.chat_formats

Every template of llama.cpp's source is learnt and reads an answer with a thought, text and two calls, a token
at a time (four characters each). Times are CPU time of this thread, the best of a few runs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from predictor.chat.format import ChatFormat
from predictor.chat.prompting import Conversation, Prompt
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import read_tools

BUILD = Path(__file__).parents[1] / "scripts" / "build_llama.py"
RUNS = 5
TOKEN = 4  # characters
ARGUMENTS = {"city": "Rome", "note": "a longer text, as an agent writes it into a file. " * 20, "days": 3}


def main() -> None:
    """Print a line per template and the summary."""
    found = subprocess.run(
        [sys.executable, BUILD, "templates"], stdout=subprocess.PIPE, text=True, check=True
    )
    learning, reading = {}, {}
    for path in sorted(Path(found.stdout.strip()).glob("*.jinja")):
        template = ChatTemplate(path.read_text(), "<s>", "</s>")
        learning[path.stem] = _best(partial(ChatFormat, template)) * 1e3
        reading[path.stem] = _read_seconds(ChatFormat(template)) * 1e6
        print(f"{path.stem:50} {learning[path.stem]:6.1f} ms {reading[path.stem]:6.1f} us a token")
    print(f"learning, ms: {_summary(learning)}")
    print(f"reading, us a token: {_summary(reading)}")


def _summary(figures: dict[str, float]) -> str:
    name = max(figures, key=figures.__getitem__)
    return f"median {statistics.median(figures.values()):.1f}, most {figures[name]:.1f} ({name})"


def _best(work: Callable[[], Any]) -> float:
    """Seconds of CPU time that the fastest of some runs takes."""
    best = float("inf")
    for _ in range(RUNS):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return best


def _read_seconds(learnt: ChatFormat) -> float:
    """Seconds for each token of an answer in the model's own form."""
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": _schema()}}
    tools = read_tools([tool])
    prompt, text = _answer(learnt, tools)
    pieces = [text[i : i + TOKEN] for i in range(0, len(text), TOKEN)]

    def read() -> None:
        reader = learnt.reader(prompt, tools)
        for piece in pieces:
            reader.push(piece)
        reader.finish()

    return _best(read) / len(pieces)


def _answer(learnt: ChatFormat, tools: list[Any]) -> tuple[Prompt, str]:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}}
    message = {
        "role": "assistant",
        "content": "I will look. " * 20,
        "reasoning_content": "Hm, let me see. " * 40,
    }
    history = [{"role": "user", "content": "Weather?"}, {**message, "tool_calls": [call]}]
    prompt = learnt.prompt(Conversation(history[:1], tools))
    whole = learnt.prompt(Conversation(history, tools, add_generation_prompt=False)).text
    at = whole.rfind("Weather?") + len("Weather?")
    return prompt, whole[at:]


def _schema() -> dict[str, Any]:
    kinds = {str: "string", int: "integer"}
    properties = {key: {"type": kinds[type(value)], "description": key} for key, value in ARGUMENTS.items()}
    return {"type": "object", "properties": properties, "required": list(ARGUMENTS)}


if __name__ == "__main__":
    main()
