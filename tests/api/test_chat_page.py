"""The chat page in a real browser, on a scripted engine where a model can't be made to say what is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from chromium import browser
from scripted_engine import FOREVER, say
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from server_process import Server, running_server

from predictor.api import chat_page
from predictor.engine.request import Delta
from predictor.errors import QueueFull
from scripts import vendor_page_libraries as vendor

ROOT = Path(__file__).parents[2]
BROWSER_ACCEPT = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>&amp;'


PHONE = (390, 844)
# Stands for the server where no model can be made to do it: thoughts, calls and progress on demand.
_PLAY = """
const [events, pauseAfter] = arguments;
const encoded = (event) => new TextEncoder().encode(`data: ${event}\\n\\n`);
const real = window.fetch;
window.fetch = async (path, options) => {
  if (!path.endsWith("chat/completions")) return real(path, options);
  window.fetch = real;
  const body = new ReadableStream({
    async start(controller) {
      events.slice(0, pauseAfter).forEach((event) => controller.enqueue(encoded(event)));
      await new Promise((resolve) => (window.goOn = resolve));
      [...events.slice(pauseAfter), "[DONE]"].forEach((event) => controller.enqueue(encoded(event)));
      controller.close();
    },
  });
  return new Response(body, { status: 200 });
};
"""


@contextmanager
def phone(chrome: Chrome) -> Iterator[None]:
    """Within the block the browser is a phone's."""
    width, height = PHONE
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


class Page:
    """What a person sees and does on the page."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def open(self, url: str) -> Page:
        """The page as somebody sees it who was never there."""
        self.chrome.get(url)
        self.chrome.execute_script("localStorage.clear()")
        self.chrome.refresh()
        self.wait(lambda: self.one("#model").text, "the list of models")
        return self

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return WebDriverWait(self.chrome, 60).until(lambda _: condition(), f"{what} did not come")

    def one(self, selector: str) -> Any:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Of all at one moment; the page may replace them while they are read."""
        while True:
            with suppress(StaleElementReferenceException):
                return [found.text for found in self.chrome.find_elements(By.CSS_SELECTOR, selector)]

    def fill(self, selector: str, text: str) -> None:
        """Type into a field of the settings."""
        self.open_settings()
        self.one(selector).clear()
        self.one(selector).send_keys(text, Keys.TAB)

    def open_settings(self) -> None:
        if not self.one("#settings").is_displayed():
            self.one("#settings-button").click()
            self.wait(lambda: self.one("#settings").is_displayed(), "the settings")

    def click(self, label: str, place: int = -1) -> None:
        """Press the last button with a label, or the one at a place among them."""
        labelled = [b for b in self.chrome.find_elements(By.CSS_SELECTOR, "main button") if b.text == label]
        labelled[place].click()

    def ask(self, text: str) -> None:
        self.one("#prompt").send_keys(text, Keys.ENTER)

    def wait_until_done(self) -> None:
        self.wait(lambda: self.one("#send").is_displayed(), "the end of the answer")

    def answer(self) -> str:
        self.wait_until_done()
        return self.texts(".assistant .text")[-1]

    def play(self, events: list[dict[str, Any]], pause_after: int) -> None:
        """Answer the next request with these events, the first so many at once and the rest after `go_on`."""
        self.chrome.execute_script(_PLAY, [json.dumps(event) for event in events], pause_after)

    def go_on(self) -> None:
        self.chrome.execute_script("window.goOn()")

    def emulate_colours(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

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
    figures = page.texts(".assistant .actions .figures")[-1]
    assert figures.startswith("7 tokens, first token after ")
    assert "tokens/s" in figures
    page.open_settings()
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
    assert httpx.get(f"{server.http_url}/ui/page.js").status_code == 404


def test_every_file_is_held_to_the_policy(scripted: Any) -> None:
    page = scripted.http.get("/", headers=BROWSER_ACCEPT)
    static = Path(chat_page.__file__).parent / "static"
    suffixes = {".js", ".css", ".svg"}
    parts = [f"/ui/{f.relative_to(static)}" for f in static.rglob("*") if f.suffix in suffixes]
    assert len(parts) > 30
    for answer in (page, *map(scripted.http.get, parts)):
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "trusted-types 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for other in ("/ui/", "/ui/../chat_page.py", "/ui/%2e%2e/chat_page.py", "/ui/vendor/marked/LICENSE"):
        assert scripted.http.get(other).status_code == 404


def test_the_libraries_are_the_ones_that_are_written_down() -> None:
    """Each with its licence, and nothing beside them; the script compares them with npm's."""
    found = {path for path in vendor.FOLDER.rglob("*") if path.is_file()}
    named = {
        vendor.FOLDER / library.folder / file
        for library in vendor.LIBRARIES
        for file in library.files.values()
    }
    assert found == named
    for library in vendor.LIBRARIES:
        main = next(iter(library.files.values()))
        assert f"v{library.version}" in (vendor.FOLDER / library.folder / main).read_text()[:200]
        assert "opyright" in (vendor.FOLDER / library.folder / "LICENSE").read_text()
        assert library.version in (ROOT / "docs/clients.md").read_text()


def test_what_a_model_writes_stays_text(page: Page, scripted: Any) -> None:
    title = page.chrome.title
    scripted.engine.scripts = [say(*HOSTILE)]
    page.ask(HOSTILE)
    assert page.answer() == HOSTILE.replace("&amp;", "&")  # an entity is Markdown, a tag isn't
    assert page.texts(".user .text") == [HOSTILE]
    assert page.chrome.find_elements(By.CSS_SELECTOR, "#conversation :is(img, script, b)") == []
    assert page.chrome.title == title
    # The scripted server has no metrics.
    assert [text for text in page.complaints() if "/metrics" not in text] == []


MARKDOWN = """# A title

Some **bold**, *slanted* and `code`, a [link](https://example.com) and [none](javascript:alert(1)).

```python
def greet(name):
    return f"Hello, {name}"  # a comment
```

1. one
2. two
   - inner

| Name | Count |
| --- | ---: |
| a | 1 |

> quoted

![a picture](https://elsewhere.example/x.png)
"""


def test_markdown_is_drawn(page: Page, scripted: Any) -> None:
    scripted.engine.scripts = [say(*re.findall(r".{1,7}", MARKDOWN, re.S))]
    page.ask("Show me")
    shown = page.answer()
    assert "**" not in shown
    assert page.texts(".text strong, .text em, .text p > code") == ["bold", "slanted", "code"]
    assert page.texts(".text h3") == ["A title"]
    assert page.texts(".text ol > li")[0] == "one"
    assert page.texts(".text li li") == ["inner"]
    assert page.texts(".text th, .text td") == ["Name", "Count", "a", "1"]
    assert page.texts("blockquote") == ["quoted"]
    links = page.chrome.find_elements(By.CSS_SELECTOR, ".text a")
    assert [link.get_attribute("href") for link in links] == [
        "https://example.com/",
        "https://elsewhere.example/x.png",
    ]
    assert "javascript:alert(1)" in shown
    page.wait(lambda: page.texts(".hljs-keyword") == ["def", "return"], "colours")
    assert page.texts(".hljs-comment") == ["# a comment"]
    assert page.texts(".code pre")[0] == 'def greet(name):\n    return f"Hello, {name}"  # a comment'
    page.chrome.execute_script(
        "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }"
    )
    page.one(".code button").click()
    page.wait(lambda: page.one(".code button").text == "Copied", "the button's word")
    assert page.chrome.execute_script("return window.copied").startswith("def greet(name):")
    assert {address.partition(":")[0] for address in page.addresses()} == {"127.0.0.1"}


def test_a_growing_answer_is_the_same_as_a_whole_one(page: Page, scripted: Any) -> None:
    """Blocks that don't change keep their elements; in the end nothing tells how it came."""
    html = []
    for pieces in (list(MARKDOWN), [MARKDOWN]):
        scripted.engine.scripts = [say(*pieces)]
        page.ask("Show me")
        page.answer()
        page.wait(lambda: page.texts(".hljs-comment"), "colours")
        html.append(page.one(".text.markdown").get_attribute("innerHTML"))
        page.one("#clear").click()
    assert html[0] == html[1]


def test_thoughts_are_folded_and_calls_are_shown(page: Page) -> None:
    """A server's events as the page sees them; how they come about is tested elsewhere."""
    events = [
        {"prompt_progress": {"total": 10, "cache": 4, "processed": 7, "time_ms": 100}},
        {"choices": [{"delta": {"reasoning_content": "Hmm, **well**", "reasoning": "Hmm, **well**"}}]},
        {"choices": [{"delta": {"content": "Let me see."}}]},
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "function": {"name": "now", "arguments": ""}}]}}
            ]
        },
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"zone": "UTC"}'}}]}}
            ]
        },
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ]
    page.play(events, pause_after=1)
    page.ask("What time is it?")
    page.wait(lambda: page.one(".progress .figures").text.startswith("Reading"), "the progress")
    reading = page.one(".progress .figures").text
    assert reading == "Reading the prompt: 7 of 10 tokens, 4 of them known, 30 tokens/s"
    assert page.one("progress").get_property("value") == pytest.approx(0.7)
    page.go_on()
    assert page.answer() == "Let me see."
    assert page.one(".thoughts summary").text.startswith("Thought for ")
    assert not page.one(".thoughts-text").is_displayed()
    page.one(".thoughts summary").click()
    assert page.one(".thoughts-text").text == "Hmm, well"
    assert page.one(".call .bar").text == "Calls now"
    assert page.one(".call pre").text == '{\n  "zone": "UTC"\n}'
    assert not page.one(".progress").is_displayed()


def test_an_answer_is_asked_for_again_and_a_question_put_anew(page: Page, scripted: Any) -> None:
    page.ask("One")
    page.answer()
    page.ask("Two")
    page.wait(lambda: len(page.texts(".assistant")) == 2, "the second answer")
    page.wait_until_done()
    scripted.engine.scripts = [say("Other")]
    page.click("Regenerate")
    page.wait(lambda: page.texts(".assistant .text") == ["Hello", "Other"], "the other answer")
    page.wait_until_done()
    assert bytes(scripted.engine.requests[0].prompt) == b"[user]One[assistant]Hello[user]Two[assistant]"
    page.click("Edit", 0)
    editor = page.one(".editor")
    assert editor.get_attribute("value") == "One"
    editor.clear()
    editor.send_keys("Three")
    page.one(".editing .primary").click()
    page.wait(lambda: page.texts(".user .text") == ["Three"], "the question put anew")
    assert page.answer() == "Other"
    assert bytes(scripted.engine.requests[0].prompt) == b"[user]Three[assistant]"


def test_several_chats_are_kept_in_the_browser(page: Page, scripted: Any) -> None:
    page.ask("The first chat")
    page.answer()
    page.one("#clear").click()
    scripted.engine.scripts = [say("Hi")]
    page.ask("The second chat")
    page.answer()
    page.fill("#system", "Be brief.")
    page.chrome.refresh()
    page.wait(lambda: page.one("#model").text, "the list of models")
    assert page.texts("#chats .entry") == ["The second chat", "The first chat"]
    assert page.texts(".message .text") == ["The second chat", "Hi"]
    page.chrome.find_elements(By.CSS_SELECTOR, "#chats .entry")[1].click()
    assert page.texts(".message .text") == ["The first chat", "Hello"]
    page.ask("Go on")
    page.wait(lambda: len(page.texts(".assistant .text")) == 2, "the answer")
    page.wait_until_done()
    prompt = bytes(scripted.engine.requests[0].prompt).decode()
    assert prompt == "[system]Be brief.[user]The first chat[assistant]Hello[user]Go on[assistant]"
    page.wait(lambda: page.texts("#chats .entry")[0] == "The first chat", "the chat used last on top")
    page.chrome.find_elements(By.CSS_SELECTOR, "#chats .quiet")[0].click()
    assert page.texts("#chats .entry") == ["The second chat"]
    assert page.texts(".message") == []


def test_text_files_go_along(page: Page, scripted: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n```\ncode\n```\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    page.one("#files").send_keys(str(tmp_path / "picture.png"))
    page.wait(lambda: "picture.png is no text file" in page.one("#problem").text, "the refusal")
    page.one("#files").send_keys(str(tmp_path / "notes.md"))
    page.wait(lambda: page.texts(".chip"), "the attachment")
    page.ask("Sum up")
    page.answer()
    prompt = bytes(scripted.engine.requests[0].prompt).decode()
    assert prompt == "[user]File notes.md:\n\n````\n# Notes\n```\ncode\n```\n\n````\n\nSum up[assistant]"
    assert page.texts(".chip") == []
    assert page.texts(".user .attachment summary") == ["notes.md"]


def test_the_page_fits_a_phone(page: Page, scripted: Any) -> None:
    with phone(page.chrome):
        page.chrome.refresh()
        page.wait(lambda: page.one("#model").text, "the list of models")
        assert not page.one("#settings").is_displayed()
        assert not page.one("#sidebar").is_displayed()
        scripted.engine.scripts = [say(MARKDOWN)]
        page.one("#prompt").send_keys("Hi")
        page.one("#send").click()
        page.answer()
        width = page.chrome.execute_script("return document.documentElement.scrollWidth")
        assert width <= PHONE[0]
        for drawer in ("settings", "sidebar"):
            page.one(f"#{drawer}-button").click()
            page.wait(lambda drawer=drawer: page.one(f"#{drawer}").is_displayed(), drawer)
            page.chrome.execute_script("document.getElementById('shade').click()")
            page.wait(lambda drawer=drawer: not page.one(f"#{drawer}").is_displayed(), f"{drawer} to close")


def test_colours_follow_the_system_or_the_setting(page: Page) -> None:
    def background() -> str:
        found: str = page.chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
        return found

    page.emulate_colours("dark")
    assert background() == "rgb(21, 24, 28)"
    page.emulate_colours("light")
    assert background() == "rgb(255, 255, 255)"
    page.open_settings()
    page.chrome.execute_script(
        "const field = document.querySelector('[name=theme]'); field.value = 'dark';"
        "field.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    assert background() == "rgb(21, 24, 28)"


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
    page.wait(lambda: page.texts(".message") == [], "an empty chat")
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
    assert page.texts(".assistant .actions .figures")[0].endswith("stopped")
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
        chrome.execute_script("localStorage.clear()")
        chrome.refresh()
        page.wait(lambda: "401: this server needs an API key" in page.one("#problem").text, "the refusal")
        page.fill("#api-key", key)
        page.wait(lambda: page.one("#model").text == "smol", "the list of models")
        assert not page.one("#problem").is_displayed()
        page.fill("[name=temperature]", "0")
        page.fill("[name=max_tokens]", "32")
        page.fill("#system", "Answer in one sentence.")
        page.ask("What is the capital of France?")
        assert page.answer() == "The capital of France is Paris."
        stored = page.chrome.execute_script(
            "return [JSON.stringify(localStorage), sessionStorage.length, document.cookie]"
        )
        assert stored[1:] == [0, ""]
        assert "capital of France" in stored[0]
        assert key not in stored[0]
        assert key not in server.log.read_text()
