"""Prompts that each hold a word of their own, and answers that repeat it: whose tokens are whose."""

from __future__ import annotations

import secrets
import threading


class Canaries:
    """Makes prompts and checks answers; for many threads.

    Attributes:
        repeated: answers that held their own word, without which the check would prove nothing.
        checked: all answers.
        foreign: answers with another prompt's word; must stay empty.
    """

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._lock = threading.Lock()
        self.repeated = 0
        self.checked = 0
        self.foreign: list[str] = []

    def prompt(self) -> tuple[str, str]:
        """A new word, and a text that a model continues with it."""
        word = f"{secrets.randbelow(10**6):06d}"
        with self._lock:
            self._words.add(word)
        return word, f"The secret number is {word}. " * 3 + "The secret number is"

    def check(self, word: str, text: str) -> None:
        """Look for words in the answer to the prompt with `word`."""
        with self._lock:
            self.checked += 1
            self.repeated += word in text
            if strange := [other for other in self._words if other != word and other in text]:
                self.foreign.append(f"{word} got {strange}: {text!r}")

    def assert_own(self) -> None:
        """Nobody got another's word, and most got their own."""
        assert not self.foreign
        assert self.repeated > self.checked / 2, f"{self.repeated} of {self.checked} repeated their word"
