"""Shows an answer as it comes: plain while a paragraph grows, as Markdown once it is complete."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from markdown_it import MarkdownIt
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.spinner import Spinner
from rich.text import Text

from predictor.client.conversation import Piece

REFRESH_SECONDS = 0.06
_THOUGHT = "dim italic"


class MarkdownStream:
    """What is complete goes to the terminal for good; the growing rest is drawn anew below it.

    Args:
        console: of a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._parser = MarkdownIt()
        self._live = Live(
            Spinner("dots", Text("waiting for the first token", "dim")),
            console=console,
            transient=True,
            refresh_per_second=8,
        )
        self._text = ""
        self._is_thought = False
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""))
        self._live.stop()
        if self._text.strip():
            self._console.print(self._finished(self._text))

    def add(self, piece: Piece) -> None:
        """Show the next piece."""
        if piece.is_thought != self._is_thought:
            self._flush()
            self._is_thought = piece.is_thought
        self._text += piece.text
        if "\n" in piece.text:
            self._flush(complete=self._complete())
        self._draw()

    def _complete(self) -> int:
        """How many characters of the text are blocks that nothing can be added to any more."""
        if self._is_thought:
            return self._text.rfind("\n") + 1
        starts = [token.map[0] for token in self._parser.parse(self._text) if token.map and token.level == 0]
        if len(starts) < 2:
            return 0
        return sum(map(len, self._text.splitlines(keepends=True)[: starts[-1]]))

    def _flush(self, complete: int | None = None) -> None:
        done, rest = self._text, ""
        if complete is not None:
            done, rest = self._text[:complete], self._text[complete:]
        self._text = rest
        self._live.update(self._growing())
        if done.strip():
            self._console.print(self._finished(done))

    def _finished(self, text: str) -> RenderableType:
        if self._is_thought:
            return Text(text.strip("\n"), _THOUGHT)
        return Markdown(text, hyperlinks=False)

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._live.update(self._growing(), refresh=True)

    def _growing(self) -> Text:
        """The growing rest, or as much of its end as the terminal has lines."""
        shown = Text(self._text.lstrip("\n"), _THOUGHT if self._is_thought else "")
        lines = shown.wrap(self._console, self._console.width)
        room = max(1, self._console.height - 2)
        return Text("\n").join(lines[-room:])
