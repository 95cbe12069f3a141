"""Prompts for filling a gap in a text, mostly in code.

The order is `<prefix>...<suffix>...<middle>`. Other texts of a project come before it as llama.cpp's server
has them, which is Qwen2.5-Coder's way (https://arxiv.org/abs/2409.12186): `<repository>...<file>...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.background import stop_if_abandoned
from predictor.engine.infill_tokens import InfillTokens
from predictor.engine.special_tokens import Segment
from predictor.errors import WrongTask
from predictor.generation.text import TextGenerator
from predictor.generation.tokens import QUICK_CHARACTERS, long_texts

# The names that llama.cpp's server gives what has none.
_PROJECT = "myproject\n"
_FILE = "filename\n"
_SNIPPET = "\n\n--- snippet ---\n\n"


@dataclass(frozen=True, slots=True)
class Snippet:
    """Other text of the same project, for the model to look at."""

    text: str
    filename: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap and what stands around it; nothing in the texts is read as a control token.

    Attributes:
        before: text in front of it, or its tokens.
        behind: text behind it.
        snippets: other texts, the least important first; None where nothing is told of the project at all.
        room: tokens to leave for the answer, for which the first snippets are left out where they don't fit.
    """

    before: str | tuple[int, ...]
    behind: str
    snippets: Sequence[Snippet] | None = None
    room: int = 0


async def infill_prompts(generator: TextGenerator, gaps: Sequence[Gap], param: str) -> list[tuple[int, ...]]:
    """A prompt for each gap.

    Args:
        generator: whose model fills them.
        gaps: what is wanted.
        param: the request's field that asks for it.

    Raises:
        WrongTask: the model wasn't trained for it.
        PromptTooLong: a text is too long whatever its tokens are.
    """
    tokens = generator.engine.infill_tokens()
    if tokens is None:
        raise WrongTask(
            f"model {generator.name!r} can't fill gaps: it has no tokens that mark what stands before and "
            f"behind one. Leave {param} out, or serve a model that was trained for it, such as Qwen2.5-Coder",
            param=param,
        )
    writer = _Writer(generator, tokens)
    if sum(map(_characters, gaps)) <= QUICK_CHARACTERS:
        return [writer.prompt(gap) for gap in gaps]
    return await long_texts.run(writer.prompts, gaps)


class _Writer:
    def __init__(self, generator: TextGenerator, tokens: InfillTokens) -> None:
        self._engine = generator.engine
        self._tokens = tokens

    def prompts(self, gaps: Sequence[Gap]) -> list[tuple[int, ...]]:
        with self._engine.hold_vocabulary():
            return [self.prompt(gap) for gap in gaps]

    def prompt(self, gap: Gap) -> tuple[int, ...]:
        marks = self._tokens
        before = self._read(gap.before) if isinstance(gap.before, str) else list(gap.before)
        core = [*marks.start, marks.prefix, *before, marks.suffix, *self._read(gap.behind), marks.middle]
        if gap.snippets is None:
            return tuple(core)
        room = self._engine.max_sequence_tokens - len(core) - gap.room
        return (*self._context(gap.snippets, room), *core)

    def _context(self, snippets: Sequence[Snippet], room: int) -> list[int]:
        """The project: as many of the last snippets as there is room for, and the file's own name."""
        head = self._named(self._tokens.repository, _PROJECT)
        tail = self._named(self._tokens.file, _FILE)
        shown: list[int] = []
        for snippet in reversed(snippets):
            more = self._snippet(snippet)
            if len(head) + len(more) + len(shown) + len(tail) > room:
                break
            shown = more + shown
        return [*head, *shown, *tail]

    def _snippet(self, snippet: Snippet) -> list[int]:
        name = self._named(self._tokens.file, f"{snippet.filename}\n") or self._read(_SNIPPET)
        return name + self._read(snippet.text)

    def _named(self, mark: int | None, name: str) -> list[int]:
        return [] if mark is None else [mark, *self._read(name)]

    def _read(self, text: str) -> list[int]:
        stop_if_abandoned()
        self._engine.check_length(len(text), "prompt")
        return self._engine.tokenize_segments([Segment(text, False)], add_special=False)


def _characters(gap: Gap) -> int:
    return len(gap.before) + len(gap.behind) + sum(len(snippet.text) for snippet in gap.snippets or ())
