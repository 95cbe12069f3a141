"""JDK's HTTP client, on which Spring AI, LangChain4j and Quarkus build."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("JdkChat.java")


def test_a_java_client_without_special_settings(scripted: Any) -> None:
    java = shutil.which("java")
    if java is None:
        pytest.skip("there is no java on this machine")
    done = subprocess.run([java, str(PROGRAM), scripted.url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, whole, second, streamed = done.stdout.split("\n", 3)
    assert (first, second) == ("200 HTTP_1_1", "200 HTTP_1_1")
    assert json.loads(whole)["choices"][0]["message"]["content"] == "Hello"
    events = [line.removeprefix("data: ") for line in streamed.split("\n") if line]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events) == "Hello"
