"""What looks like a control token in a chat template, as a vocabulary for tests without the real ones."""

from __future__ import annotations

import re

from predictor.chat.provenance import Prompt
from predictor.engine.special_tokens import Segment, SpecialToken, SpecialTokens

_BAR = r"[|\uff5c]?"  # DeepSeek's is the full-width one.
# <|im_end|>, </s>, <start_of_turn>, [INST], and MiniMax's ]~b] and [e~[.
_WORD = re.compile(
    rf"<{_BAR}/?[^\s<>|\uff5c'\"{{}}]{{1,40}}{_BAR}>|\[/?[A-Z_]{{2,20}}\]|\]~[!a-z]*[\[\]]|\[e~\["
)


class ControlWords:
    """The control tokens of a template, by what it writes and says.

    Args:
        written: the template's source and what it renders.
    """

    def __init__(self, *written: str) -> None:
        names = {"<s>", "</s>"}.union(*map(_WORD.findall, written))
        self.names = sorted(names)
        tokens = (SpecialToken(i, name, is_control=True) for i, name in enumerate(self.names))
        self._special = SpecialTokens(tokens, lambda text: [-1])

    def tokens(self, segments: list[Segment] | tuple[Segment, ...]) -> list[str]:
        """Each control token by its name, and of the text between them each character."""
        tokens: list[str] = []
        for piece in self._special.split(segments):
            tokens += [self.names[piece]] if isinstance(piece, int) else "".join(piece)
        return tokens

    def read_in(self, prompt: Prompt) -> list[str]:
        """The control tokens of a prompt in their order."""
        return [token for token in self.tokens(prompt.segments) if len(token) > 1]
