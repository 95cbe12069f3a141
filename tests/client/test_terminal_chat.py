"""`kserve-llamacpp chat` on a real model, in a real terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from server_process import Server

from predictor.client.typed_ahead import edited

COMMAND = [sys.executable, "-m", "predictor.cli", "chat"]
BRIEF = ["--system", "Answer in one sentence.", "--temperature", "0", "--max-tokens", "32"]
QUESTION = "What is the capital of France?"
LONG = "Write a very long story about a sailor and his dog."
SECONDS = 60


class Terminal:
    """A user at a terminal: types, reads, presses Ctrl-C."""

    def __init__(self, *arguments: str, home: Path) -> None:
        homes = {"XDG_STATE_HOME": f"{home}/state", "XDG_DATA_HOME": f"{home}/data"}
        self._leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (40, 120))
        # An emulator's questions get no answers here; what is kept belongs into a folder of ours.
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PROMPT_TOOLKIT_NO_CPR": "1", **homes}
        # A session of its own, whose controlling terminal it is: then Ctrl-C reaches it as from a keyboard.
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(follower)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def read_until(self, pattern: str) -> str:
        """What the screen shows up to the pattern, since the last call."""
        return plain(self.read_raw_until(pattern))

    def ready(self) -> str:
        """The same up to the next prompt, before which a line would be kept and not taken."""
        return self.read_until(r"\?2004h[^>]*>")

    def read_raw_until(self, pattern: str) -> str:
        """The same, with what colours and moves the text."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} did not come in {self.seen!r}"
            if select.select([self._leader], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self._leader, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    pytest.fail(f"the program ended before {pattern!r}: {self.seen!r}")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)


Open = Callable[..., Any]


@pytest.fixture
def terminal(tmp_path: Path) -> Open:
    @contextmanager
    def terminal(*arguments: str) -> Iterator[Terminal]:
        made = Terminal(*arguments, home=tmp_path)
        try:
            yield made
        finally:
            made.close()

    return terminal


def running_requests(server: Server) -> float:
    metrics = httpx.get(f"{server.http_url}/metrics").text
    found = re.search(r"^kserve_llamacpp_num_requests_running\{.*\} (\S+)$", metrics, re.M)
    assert found
    return float(found[1])


def piped(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=text, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_a_pipe_gets_the_answer_and_nothing_else(server: Server) -> None:
    done = piped(f"{QUESTION}\n", server.http_url, *BRIEF)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")


def test_an_empty_pipe_is_an_error(server: Server) -> None:
    done = piped("\n", server.http_url)
    assert done.returncode == 1
    assert "standard input is empty" in done.stderr


def test_a_servers_refusal_is_told_in_its_words(server: Server) -> None:
    done = piped("Hi " * 5000, server.http_url)
    assert done.returncode == 1
    assert "the server answered 400: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_conversation_remembers_and_forgets(server: Server, terminal: Open) -> None:
    with terminal(server.http_url, *BRIEF) as user:
        assert "smol at http://" in user.ready()
        user.type(f"{QUESTION}\r")
        assert "The capital of France is Paris." in user.read_until(r"7 tokens, first after \d")
        user.ready()
        user.type("/history\r")
        shown = user.ready()
        assert f"user {QUESTION}" in shown
        assert "assistant The capital of France is Paris." in shown
        user.type("/clear\r")
        user.read_until("forgotten")
        user.ready()
        user.type("/history\r/show\r")
        shown = user.read_until("max_tokens: 32")
        user.ready()
        assert "Paris" not in shown
        assert "system prompt: Answer in one sentence." in shown
        user.type("/set system Answer in French.\r")
        user.read_until("system prompt: Answer in French.")
        user.ready()
        user.type("/nonsense\r")
        user.read_until("there is no command /nonsense")
        user.type("/bye\r")
        assert user.process.wait(SECONDS) == 0


def test_what_is_set_is_sent_and_what_cant_be_is_refused(fake_chat: FakeChat, terminal: Open) -> None:
    with terminal(fake_chat.url) as user:
        user.ready()
        for line, answer in (
            ("/set parameter temperature 0.5", "temperature is 0.5"),
            ("/set parameter num_predict 7", "max_tokens is 7"),
            ('/set parameter stop "###"', r'stop is \["###"\]'),
            ("/set parameter temprature 1", "there is no parameter 'temprature'"),
            ("/set parameter top_k many", "top_k must be a whole number, not 'many'"),
            ("/set nothink", "asked not to think"),
            ("/set quiet", "figures are hidden"),
            ("/set loud", "use /set system, parameter"),
        ):
            user.type(f"{line}\r")
            user.read_until(answer)
            user.ready()
        user.type("Hi\r")
        user.read_until("Done")
        user.ready()
        body = fake_chat.bodies[-1]
        assert {**body, "messages": None}.items() >= {
            "temperature": 0.5,
            "max_tokens": 7,
            "reasoning_effort": "none",
        }.items()
        assert body["stop"] == ["###"]
        user.type("/set parameter temperature\r")
        user.read_until("temperature is the server's")
        user.ready()
        user.type("Again\r")
        user.read_until("Done")
        user.ready()
        assert "temperature" not in fake_chat.bodies[-1]


def test_several_lines_are_one_message(fake_chat: FakeChat, terminal: Open) -> None:
    with terminal(fake_chat.url) as user:
        user.ready()
        user.type('"""one\rtwo\r"""\r')
        user.read_until("Done")
        user.ready()
        assert fake_chat.last() == "one\ntwo"
        user.type("three\x1b\rfour\r")  # Alt-Enter
        user.read_until("Done")
        user.ready()
        assert fake_chat.last() == "three\nfour"
        user.type("\x1b[200~five\rsix\x1b[201~\r")  # pasted
        user.read_until("Done")
        user.ready()
        assert fake_chat.last() == "five\nsix"


def test_keys_typed_while_it_waits_are_neither_lost_nor_sent(fake_chat: FakeChat, terminal: Open) -> None:
    with terminal(fake_chat.url) as user:
        user.ready()
        fake_chat.hold()
        user.type("First\rtyped to\x7foo")
        user.read_until("waiting for the first token")
        user.type(" early\rand more\r")
        time.sleep(0.3)
        fake_chat.release()
        user.read_until("Done")
        user.read_until("and more")
        time.sleep(0.3)
        assert [body["messages"][-1]["content"] for body in fake_chat.bodies] == ["First"]
        user.type("!\r")
        user.read_until("Done")
        user.ready()
        assert fake_chat.last() == "typed too early\nand more!"


def test_thoughts_are_dim_and_markdown_is_drawn(fake_chat: FakeChat, terminal: Open) -> None:
    with terminal(fake_chat.url) as user:
        user.ready()
        fake_chat.answers = [
            {"reasoning_content": "Let me think."},
            {"content": "# Title\n\nSome **bold** and `code`.\n\n"},
            {"content": "```python\nprint(1)\n```\n\n- one\n- two\n"},
            {"content": "\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"},
        ]
        user.type("Show\r")
        raw = user.read_raw_until("tokens, first after")
        assert re.search(r"\x1b\[[\d;]*2[\d;]*m[^\x1b]*Let me think\.", raw)  # dim
        assert "\x1b[1mbold" in raw
        shown = plain(raw)
        assert "\u2022 one" in shown  # a bullet
        assert "\u2500\u2500" in shown  # a table's rule
        user.ready()
        user.type("/history\r")
        assert "think" not in user.read_until(r"\| 1 \| 2 \|")
        assert all("think" not in str(body["messages"][1:]) for body in fake_chat.bodies)


def test_a_chat_is_saved_and_gone_on_with(fake_chat: FakeChat, terminal: Open, tmp_path: Path) -> None:
    with terminal(fake_chat.url, "--system", "Be kind.") as user:
        user.ready()
        user.type("Remember me\r")
        user.read_until("tokens, first")
        user.ready()
        user.type("/save ../../etc\r")
        user.read_until("can't be a chat's name")
        user.ready()
        user.type("/save talk\r")
        user.read_until("saved as ")
        user.ready()
        user.type("/bye\r")
        assert user.process.wait(SECONDS) == 0
    (saved,) = tmp_path.glob("data/*/chats/talk.json")
    assert saved.stat().st_mode & 0o077 == 0
    (history,) = tmp_path.glob("state/*/chat-history")
    assert history.stat().st_mode & 0o077 == 0
    with terminal(fake_chat.url) as user:
        user.ready()
        user.type("/load nothing\r")
        user.read_until("no chat is saved as 'nothing'; there are: talk")
        user.ready()
        user.type("/load talk\r")
        user.read_until("loaded talk: 2 messages")
        user.ready()
        user.type("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A")  # up, into the history of the first chat
        user.read_until("Remember me")
        user.type("\r")
        user.read_until("tokens, first")
        user.ready()
        roles = [(message["role"], message["content"]) for message in fake_chat.bodies[-1]["messages"]]
        assert roles[0] == ("system", "Be kind.")
        assert [role for role, _ in roles] == ["system", "user", "assistant", "user"]


def test_ctrl_c_stops_the_answer_and_not_the_program(server: Server, terminal: Open) -> None:
    with terminal(server.http_url, "--temperature", "0", "--max-tokens", "3000") as user:
        user.ready()
        user.type(f"{LONG}\r")
        user.read_until("Once upon a time")
        assert running_requests(server) == 1
        user.type("\x03")
        user.read_until("stopped")
        user.ready()
        deadline = time.monotonic() + SECONDS
        while running_requests(server) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running_requests(server) == 0
        user.type("half a line\x03")  # at the prompt it drops the line
        user.ready()
        user.type("/history\r")
        user.read_until("assistant")
        user.ready()
        user.type("\x04")
        assert user.process.wait(SECONDS) == 0


class FakeChat:
    """A server that says what it is told to, when it is told to.

    Attributes:
        answers: deltas of the next answers.
        bodies: of the requests.
    """

    def __init__(self) -> None:
        self.answers: list[dict[str, str]] = [{"content": "Done"}]
        self.bodies: list[dict[str, Any]] = []
        self._go = Event()
        self._go.set()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(json.dumps({"data": [{"id": "fake"}]}))

            def do_POST(self) -> None:
                chat.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                chat._go.wait(SECONDS)
                events = [{"choices": [{"delta": delta}]} for delta in chat.answers]
                self._send("".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n")

            def _send(self, text: str) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def hold(self) -> None:
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def last(self) -> str:
        content: str = self.bodies[-1]["messages"][-1]["content"]
        return content


@pytest.fixture
def fake_chat() -> Iterator[FakeChat]:
    fake = FakeChat()
    with fake.server:
        Thread(target=fake.server.serve_forever, daemon=True).start()
        yield fake
        fake.release()
        fake.server.shutdown()


def test_a_terminal_gets_no_commands_from_the_model(fake_chat: FakeChat) -> None:
    fake_chat.answers = [{"reasoning": "no"}, {"content": "a\x1b]0;owned\x07b\u202ec\td"}]
    assert piped("Hi", fake_chat.url).stdout == "a]0;ownedbc\td\n"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("plain\r", "plain"),
        ("ab\x7fc", "ac"),
        ("\x7f\x7fa", "a"),
        ("gone\x15kept", "kept"),
        ("a\x1b[Db\x1bOPc\x1b[200~d\x1b[201~", "abcd"),
        ("a\x04b\x03\tc\nd\n\n", "ab\tc\nd"),
    ],
)
def test_what_some_keys_leave(keys: str, text: str) -> None:
    assert edited(keys) == text


def test_sigint_is_the_users_way_out_of_a_pipe(server: Server) -> None:
    with subprocess.Popen(
        [*COMMAND, server.http_url, "--max-tokens", "3000", "--temperature", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write(LONG)
        process.stdin.close()
        assert process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert "Traceback" not in process.stderr.read()
