"""A chat in the terminal: lines with editing and a history, streamed answers, and a mode for pipes."""

from __future__ import annotations

import sys
from contextlib import closing

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console

from predictor.client.chat_commands import Session, obey
from predictor.client.conversation import Conversation, Figures
from predictor.client.endpoint import ClientError
from predictor.client.markdown_stream import MarkdownStream
from predictor.client.saved_chats import history_file
from predictor.client.typed_ahead import TypedAhead

MARK = '"""'


def run(conversation: Conversation) -> int:
    """Talk until the user leaves, or answer what was piped in.

    Returns:
        The exit status.

    Raises:
        ClientError: what was piped in got no answer.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _Chat(Session(conversation, Console(highlight=False))).talk()
    return _answer_pipe(conversation)


def _answer_pipe(conversation: Conversation) -> int:
    text = sys.stdin.read().strip()
    if not text:
        raise ClientError("standard input is empty: pipe a message in, or start in a terminal")
    with closing(conversation.ask(text, Figures())) as pieces:
        for piece in pieces:
            if not piece.is_thought:
                sys.stdout.write(piece.text)
                sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


class _History(FileHistory):
    """Lines of this chat and earlier ones; new ones are written only where that is wanted."""

    def __init__(self, session: Session) -> None:
        super().__init__(str(history_file()))
        self._session = session

    def store_string(self, string: str) -> None:
        if self._session.keeps_history:
            super().store_string(string)


class _Chat:
    def __init__(self, session: Session) -> None:
        self._session = session
        keyboard = create_input()
        self._typed_ahead = TypedAhead(keyboard)
        self._prompt: PromptSession[str] = PromptSession(
            "> ",
            input=keyboard,
            history=_History(session),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=". ",
            enable_history_search=False,
        )

    def talk(self) -> int:
        """See `run`."""
        # From the first prompt to the last: between two of them the terminal would take keys for itself.
        with self._typed_ahead.held():
            return self._talk()

    def _talk(self) -> int:
        conversation = self._session.conversation
        self._session.say(f"{conversation.model} at {conversation.endpoint.url}; /help lists commands")
        begun = ""
        while True:
            try:
                line = self._prompt.prompt(default=begun)
            except KeyboardInterrupt:
                begun = ""
                continue
            except EOFError:
                return 0
            begun, text = "", line.strip()
            if text.startswith("/"):
                if not obey(text.replace(MARK, ""), self._session):
                    return 0
            elif text := text.replace(MARK, "").strip():
                begun = self._answer(text)

    def _answer(self, text: str) -> str:
        """Show the answer to a message.

        Returns:
            What was typed meanwhile, for the next message.
        """
        try:
            self._show(text)
        except KeyboardInterrupt:
            self._session.say("stopped", "yellow")
        except ClientError as error:
            self._session.say(error.message, "red")
        return self._typed_ahead.take()

    def _show(self, text: str) -> None:
        figures = Figures()
        with (
            closing(self._session.conversation.ask(text, figures)) as pieces,
            MarkdownStream(self._session.console) as shown,
        ):
            for piece in pieces:
                shown.add(piece)
        if self._session.verbose:
            self._session.say(str(figures))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text.count(MARK) % 2:
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
