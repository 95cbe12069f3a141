"""The chat page in a real browser, on a scripted engine where a model can't be made to say what is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from chromium import browser
from scripted_engine import FOREVER, say
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from server_process import Server, running_server

from predictor.engine.request import Delta
from predictor.errors import QueueFull

BROWSER_ACCEPT = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>&amp;'


class Page:
    """What a person sees and does on the page."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def open(self, url: str) -> Page:
        self.chrome.get(url)
        self.wait(lambda: self.one("#model").text, "the list of models")
        return self

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return WebDriverWait(self.chrome, 60).until(lambda _: condition(), f"{what} did not come")

    def one(self, selector: str) -> Any:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.chrome.find_elements(By.CSS_SELECTOR, selector)]

    def fill(self, selector: str, text: str) -> None:
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def ask(self, text: str) -> None:
        self.one("#prompt").send_keys(text, Keys.ENTER)

    def wait_until_done(self) -> None:
        self.wait(lambda: self.one("#send").is_displayed(), "the end of the answer")

    def answer(self) -> str:
        self.wait_until_done()
        return self.texts(".assistant .text")[-1]

    def complaints(self) -> list[str]:
        """What the browser's console holds: script errors, refused content, missing files."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def addresses(self) -> set[str]:
        """Hosts of all requests that the browser has made for this page."""
        messages = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert urls
        return {urlsplit(url).netloc for url in urls}


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as made:
        yield made


@pytest.fixture
def page(chrome: Chrome, scripted: Any) -> Page:
    return Page(chrome).open(scripted.url)


@pytest.fixture(scope="module")
def ui_server(model_path: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(model_path, tmp_path_factory.mktemp("ui") / "log", "--ui") as server:
        yield server


def test_a_conversation_with_a_model(chrome: Chrome, ui_server: Server) -> None:
    page = Page(chrome).open(ui_server.http_url)
    page.fill("#system", "Answer in one sentence.")
    page.fill("[name=temperature]", "0")
    page.fill("[name=max_tokens]", "32")
    page.ask("What is the capital of France?")
    assert page.answer() == "The capital of France is Paris."
    figures = page.texts(".assistant .figures")[-1]
    assert figures.startswith("7 tokens, first token after ")
    assert "tokens/s" in figures
    page.wait(lambda: "Tokens generated" in page.texts("#metrics dt"), "a rate from two readings")
    shown = dict(zip(page.texts("#metrics dt"), page.texts("#metrics dd"), strict=True))
    assert shown["Requests running"] == "0"
    assert shown["Mean time to first token"].endswith(" ms")
    assert page.complaints() == []
    assert page.addresses() == {urlsplit(ui_server.http_url).netloc}


def test_only_browsers_get_the_page(ui_server: Server, server: Server) -> None:
    page = httpx.get(ui_server.http_url, headers=BROWSER_ACCEPT)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "accept"
    for accept in ("*/*", "application/json"):
        answer = httpx.get(ui_server.http_url, headers={"accept": accept})
        assert answer.json() == {"status": "alive"}
    # Without --ui a browser gets what KServe answers, and there are no files.
    assert httpx.get(server.http_url, headers=BROWSER_ACCEPT).json() == {"status": "alive"}
    assert httpx.get(f"{server.http_url}/ui/chat.js").status_code == 404


def test_every_file_is_held_to_the_policy(scripted: Any) -> None:
    page = scripted.http.get("/", headers=BROWSER_ACCEPT)
    parts = ["/ui/chat.js", "/ui/server.js", "/ui/metrics.js", "/ui/style.css", "/ui/icon.svg"]
    for answer in (page, *map(scripted.http.get, parts)):
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "trusted-types 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for other in ("/ui/", "/ui/../chat_page.py", "/ui/%2e%2e/chat_page.py"):
        assert scripted.http.get(other).status_code == 404


def test_what_a_model_writes_stays_text(page: Page, scripted: Any) -> None:
    title = page.chrome.title
    scripted.engine.scripts = [say(*HOSTILE)]
    page.ask(HOSTILE)
    assert page.answer() == HOSTILE
    assert page.texts(".user .text") == [HOSTILE]
    assert page.chrome.find_elements(By.CSS_SELECTOR, "#conversation :is(img, script, b)") == []
    assert page.chrome.title == title
    # The scripted server has no metrics.
    assert [text for text in page.complaints() if "/metrics" not in text] == []


def test_the_policy_refuses_what_the_page_never_does(page: Page) -> None:
    page.chrome.execute_script(
        "const script = document.createElement('script'); script.append('document.title = 3');"
        "document.body.append(script);"
    )
    assert page.chrome.title != "3"
    with pytest.raises(Exception, match="TrustedHTML"):
        page.chrome.execute_script("document.body.innerHTML = '<b>x</b>'")


def test_the_conversation_and_the_parameters_are_sent(page: Page, scripted: Any) -> None:
    page.fill("#system", "Be brief.")
    page.fill("[name=temperature]", "0.25")
    page.fill("[name=top_k]", "3")
    page.fill("[name=seed]", "7")
    page.fill("[name=max_tokens]", "9")
    page.ask("One")
    assert page.answer() == "Hello"
    page.ask("Two")
    page.wait(lambda: page.texts(".assistant .text") == ["Hello", "Hello"], "the second answer")
    page.wait_until_done()
    request = scripted.engine.requests[0]
    assert bytes(request.prompt).decode() == "[system]Be brief.[user]One[assistant]Hello[user]Two[assistant]"
    params = request.params
    assert (params.temperature, params.top_k, params.seed, params.max_tokens) == (0.25, 3, 7, 9)
    page.one("#clear").click()
    assert page.texts(".message") == []
    page.ask("Three")
    page.answer()
    assert bytes(scripted.engine.requests[0].prompt).decode() == "[system]Be brief.[user]Three[assistant]"


def test_stop_frees_the_sequence_and_keeps_what_came(page: Page, scripted: Any) -> None:
    scripted.engine.scripts = [[Delta("So far", completion_tokens=1), FOREVER]]
    page.ask("Go on")
    page.wait(lambda: page.texts(".assistant .text") == ["So far"], "the first piece")
    page.one("#stop").click()
    page.wait_until_done()
    page.wait(lambda: scripted.engine.streams[0].cancelled.is_set(), "the server's cancellation")
    assert page.texts(".assistant .figures")[0].endswith("stopped")
    scripted.engine.scripts = [say("More")]
    page.ask("And now?")
    assert page.answer() == "More"
    assert b"[assistant]So far[user]And now?" in bytes(scripted.engine.requests[0].prompt)


def test_a_refusal_is_shown_and_the_prompt_comes_back(page: Page, scripted: Any) -> None:
    scripted.engine.refusal = QueueFull("3 requests are waiting", retry_after=1)
    page.ask("Hello?")
    page.wait(lambda: "429: 3 requests are waiting" in page.one("#problem").text, "the server's words")
    assert page.one("#prompt").get_attribute("value") == "Hello?"
    assert page.texts(".message") == []
    scripted.engine.refusal = None
    page.one("#prompt").send_keys(Keys.ENTER)
    assert page.answer() == "Hello"
    assert not page.one("#problem").is_displayed()


def test_an_error_in_mid_answer_is_shown(page: Page, scripted: Any) -> None:
    scripted.engine.scripts = [[Delta("Hel", completion_tokens=1), RuntimeError("secret")]]
    page.ask("Hi")
    page.wait(lambda: "internal error" in page.one("#problem").text, "the error")
    assert page.texts(".assistant .text") == ["Hel"]
    assert "secret" not in page.one("body").text


def test_a_wrong_parameter_is_named_before_anything_is_sent(page: Page, scripted: Any) -> None:
    page.fill("[name=top_p]", "5")
    page.ask("Hi")
    page.wait(lambda: page.one("#problem").text.startswith("Top p: "), "the complaint")
    assert scripted.engine.requests == []
    assert page.one("#prompt").get_attribute("value") == "Hi"


def test_a_server_with_keys(chrome: Chrome, model_path: Any, tmp_path: Path) -> None:
    key = "chat-0123456789abcdef"
    (tmp_path / "keys").write_text(f"{key}\n")
    with running_server(
        model_path, tmp_path / "log", "--ui", "--api-key-file", str(tmp_path / "keys")
    ) as server:
        page = Page(chrome)
        chrome.get(server.http_url)
        page.wait(lambda: "401: this server needs an API key" in page.one("#problem").text, "the refusal")
        page.one("#api-key").send_keys(key, Keys.ENTER)
        page.wait(lambda: page.one("#model").text == "smol", "the list of models")
        assert not page.one("#problem").is_displayed()
        page.fill("[name=temperature]", "0")
        page.fill("[name=max_tokens]", "32")
        page.fill("#system", "Answer in one sentence.")
        page.ask("What is the capital of France?")
        assert page.answer() == "The capital of France is Paris."
        stored = page.chrome.execute_script(
            "return [localStorage.length, sessionStorage.length, document.cookie]"
        )
        assert stored == [0, 0, ""]
        assert key not in server.log.read_text()
