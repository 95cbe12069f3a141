"""What is typed while an answer is on its way: kept for the next message, and never sent by itself."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.keys import Keys

_LOCAL_MODES = 3
# Arrow keys and the like, and the marks around what was pasted.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.|.)?", re.S)
_MOST_BYTES = 64 * 1024


class TypedAhead:
    """The keys that were pressed while nothing was asked.

    Args:
        keyboard: prompt_toolkit's, whose standard input is a terminal.
    """

    def __init__(self, keyboard: Input) -> None:
        self._keyboard = keyboard
        self._descriptor = sys.stdin.fileno()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block keys are not shown, and wait for `take`; Ctrl-C interrupts as ever."""
        before = termios.tcgetattr(self._descriptor)
        quiet = termios.tcgetattr(self._descriptor)
        quiet[_LOCAL_MODES] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def take(self) -> str:
        """The text of all keys until now; to be called within `held`."""
        early = "".join(
            "\n" if press.key in (Keys.ControlM, Keys.ControlJ) else press.data
            for press in get_typeahead(self._keyboard)
        )
        return edited(early + self._waiting().decode("utf-8", "ignore"))

    def _waiting(self) -> bytes:
        found = b""
        while len(found) < _MOST_BYTES and select.select([self._descriptor], [], [], 0)[0]:
            more = os.read(self._descriptor, 4096)
            if not more:
                break
            found += more
        return found


def edited(keys: str) -> str:
    """The text that some keys leave: letters and ends of lines, less what was erased again."""
    text: list[str] = []
    for key in _ESCAPES.sub("", keys).replace("\r", "\n"):
        if key in "\x7f\b":
            del text[-1:]
        elif key == "\x15":
            text.clear()
        elif key >= " " or key in "\n\t":
            text.append(key)
    return "".join(text).rstrip("\n")
