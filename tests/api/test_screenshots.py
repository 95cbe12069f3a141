"""The pictures of the chat page in docs/clients.md, taken from a real conversation with the demo model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from chromium import browser
from PIL import Image
from server_process import running_server
from test_chat_page import PHONE, Page, phone

pytestmark = pytest.mark.slow

FOLDER_VARIABLE = "KSERVE_LLAMACPP_SCREENSHOTS"
MOST_BYTES = 100_000
_TO_QUESTION = "[...document.querySelectorAll('.user')].at(-1).scrollIntoView()"
QUESTIONS = ("What is a prime number?", "Write a Python function that tells whether a number is prime.")


@pytest.fixture
def page(model_path: Path, tmp_path: Path) -> Iterator[Page]:
    with (
        running_server(model_path, tmp_path / "log", "--ui", name="SmolLM2-135M-Instruct") as server,
        browser() as chrome,
    ):
        yield Page(chrome).open(server.http_url)


def test_a_desktop_and_a_phone(page: Page, tmp_path: Path) -> None:
    """Written into the folder that the variable names; `make screenshots` says docs."""
    folder = Path(os.environ.get(FOLDER_VARIABLE, tmp_path))
    page.emulate_colours("light")
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "250")
    page.one("#close-settings").click()
    for question in QUESTIONS:
        page.ask(question)
        page.wait_until_done()
    page.chrome.execute_script(_TO_QUESTION)
    take(page, folder / "chat-page-desktop.png")
    page.emulate_colours("dark")
    with phone(page.chrome):
        page.chrome.execute_script(_TO_QUESTION)
        take(page, folder / "chat-page-phone.png", width=PHONE[0])


def take(page: Page, path: Path, **size: Any) -> None:
    """A picture in few colours, and of few bytes."""
    picture = Image.open(BytesIO(page.chrome.get_screenshot_as_png())).convert("RGB")
    if width := size.get("width"):
        picture = picture.resize((width, picture.height * width // picture.width), Image.Resampling.LANCZOS)
    picture.quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)
    assert 5_000 < path.stat().st_size < MOST_BYTES
