"""Learns a template's form of answers by rendering small conversations and comparing what comes back.

An answer in the history is written as the model would write it. So the rendering of one with a call, of one
with three and of one with a thought tell what stands before, between and behind their parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.abilities import Abilities
from predictor.chat.argument_styles import VALUES, find_arguments
from predictor.chat.comparing import (
    FIRST_MARK,
    LAST_MARK,
    OPEN_MARK,
    after,
    between,
    common_end,
    generalised,
    head_like,
    holed,
    last_marks,
    split_at_names,
    trigger,
    without_common_end,
    without_thought,
)
from predictor.chat.form import AnswerForm, CallForm, ContentForm, ThoughtForm
from predictor.chat.known_forms import described_thoughts, known_thought
from predictor.chat.matching import common_start
from predictor.chat.probing import (
    ANSWER,
    NAMES,
    THOUGHT,
    USER,
    Prober,
    answer,
    calls_of,
    probe_tool,
    user,
)
from predictor.chat.template import ChatTemplate

_SPEAKS_OF_THOUGHT = re.compile(r"think|reason|thought", re.IGNORECASE)


def learn_form(template: ChatTemplate, abilities: Abilities, end_texts: Sequence[str]) -> AnswerForm:
    """The form of answers that a template's renderings show.

    Args:
        template: of the model.
        abilities: what it takes.
        end_texts: texts of the tokens that end an answer.
    """
    return _Learner(template, abilities, end_texts).learn()


class _Learner:
    def __init__(self, template: ChatTemplate, abilities: Abilities, end_texts: Sequence[str]) -> None:
        self._template = template
        self._abilities = abilities
        self._ends = tuple(filter(None, end_texts))
        self._prober = Prober(template, abilities)
        self._tools = [_tool(name) for name in NAMES]
        self._header = self._find_header()

    def learn(self) -> AnswerForm:
        content_tail, call_tail = self._tails()
        content_end = self._content_end(content_tail, call_tail)
        thought, content_start = self._thought()
        content = ContentForm(content_start, content_end)
        described = described_thoughts(self._template.source) if not self._shows_thoughts() else None
        if described is not None:
            thought, content = described
        calls = self._calls(thought, content) if self._abilities.shows_calls else None
        return AnswerForm(thought, content, calls)

    # Renderings: what stands behind the header of an answer.

    def _render(self, message: Mapping[str, Any], **extra: Any) -> str | None:
        text = self._prober.render([user(), message], self._tools, prompt=False, **extra)
        return None if text is None else text[text.rfind(USER) + len(USER) :]

    def _behind_header(self, message: Mapping[str, Any], **extra: Any) -> str:
        text = self._render(message, **extra) or ""
        return text[len(self._header) :]

    def _thinking(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if self._abilities.thought_parts:
            parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
            return {**message, "content": parts}
        return {**message, **dict.fromkeys(self._abilities.thought_fields, THOUGHT)}

    def _find_header(self) -> str:
        """What stands between the user's words and the answer, in all renderings."""
        prompts = [
            self._prober.render([user()], self._tools, **extra)
            for extra in ({}, {"thinking": True}, {"enable_thinking": False, "thinking": False})
            if not extra or "thinking" in self._template.source
        ]
        texts = [text[text.rfind(USER) + len(USER) :] for text in prompts if text is not None]
        for message in (answer(), self._thinking(answer())):
            texts += filter(None, [self._render(message)])
        if self._abilities.shows_calls:
            texts += filter(None, [self._render(self._call(1))])
        header = common_start(texts)
        header = OPEN_MARK.sub("", header)
        behind = [text[len(header) :] for text in texts]
        # A mark of two tags, such as <|open|>think<|sep|>, must not be split.
        names = [text for text in behind if re.match(r"\w", text) and not text.startswith((ANSWER, THOUGHT))]
        mark = LAST_MARK.search(header)
        if mark and any(_SPEAKS_OF_THOUGHT.match(name) for name in names):
            header = header[: mark.start()]
        mark = LAST_MARK.search(header)
        if mark and _SPEAKS_OF_THOUGHT.search(mark[0]):
            return header[: mark.start()]
        return header + self._repeated_header(header, prompts[0] or "", texts[-1])

    def _repeated_header(self, header: str, prompt: str, written: str) -> str:
        """The rest of the header, where prompts say something else between the user's words and it."""
        behind = written[len(header) :]
        mark = re.match(r"(<[^<>\n]*>)+", behind)
        if mark and prompt.endswith(mark[0]) and not _SPEAKS_OF_THOUGHT.search(mark[0]):
            return mark[0]
        return ""

    def _call(self, count: int, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        given = {} if arguments is None else {"arguments": arguments}
        return calls_of(self._abilities, count, **given)

    # Thoughts and content.

    def _tails(self) -> tuple[str, str]:
        """What follows the content in an answer of text, and in one with a call."""
        plain = self._behind_header(answer())
        with_call = ""
        if self._abilities.shows_calls and self._abilities.text_with_call:
            with_call = self._behind_header({**self._call(1), "content": ANSWER})
        return after(plain, ANSWER), after(with_call, ANSWER)

    def _content_end(self, plain: str, with_call: str) -> str:
        if with_call:
            end = OPEN_MARK.sub("", common_start([plain, with_call]))
            return end if end.strip() and end.strip() != plain.strip() else ""
        end = self._before_end(plain)
        call = self._behind_header(self._call(1)) if self._abilities.shows_calls else ""
        if end == plain and call:
            end = plain[: len(plain) - len(common_end(plain, call))]
        ends_turn = end.strip() == plain.strip() or end.strip() in self._user_end()
        return end if LAST_MARK.search(end) and not ends_turn else ""

    def _user_end(self) -> str:
        """What ends a user's message: the same ends an answer, mostly."""
        text = self._prober.render([user()], self._tools, prompt=False) or ""
        return text[text.rfind(USER) + len(USER) :]

    def _before_end(self, text: str) -> str:
        """A text up to the token that ends the answer."""
        places = [at for end in self._ends if (at := text.find(end)) >= 0]
        return text[: min(places)] if places else text

    def _thought(self) -> tuple[ThoughtForm | None, str]:
        """The form of thoughts, and what begins the content behind one."""
        plain = self._behind_header(answer())
        content_start = plain.partition(ANSWER)[0]
        if not self._shows_thoughts():
            return self._known_thought(), last_marks(content_start, self._known_thought())
        with_text = self._behind_header(self._thinking(answer()), thinking=True)
        between_text = between(with_text, THOUGHT, ANSWER)
        before_call = before_call_end = ""
        if self._abilities.shows_calls:
            with_call = self._behind_header(self._thinking(self._call(1)), thinking=True)
            plain_call = self._behind_header(self._call(1))
            head = plain_call.partition(NAMES[0])[0]
            before_call = between(with_call, THOUGHT, NAMES[0])
            before_call_end = before_call[: len(before_call) - len(common_end(before_call, head))]
            if not before_call_end.strip() and (mark := FIRST_MARK.match(before_call)):
                before_call_end = mark[0]
            if THOUGHT not in with_text:
                with_text = with_call
        start = with_text.partition(THOUGHT)[0]
        if not start.strip():
            start = self._opened()
        if between_text and before_call:
            end = OPEN_MARK.sub("", common_start([between_text, before_call]))
            if end.strip():
                return ThoughtForm(start, end), between_text[len(end) :]
        if between_text:
            return ThoughtForm(start, between_text), ""
        return ThoughtForm(start, before_call_end), last_marks(content_start, None)

    def _shows_thoughts(self) -> bool:
        return bool(self._abilities.thought_fields) or self._abilities.thought_parts

    def _opened(self) -> str:
        """What the prompt opens for a thought."""
        prompt = self._prober.render([user()], self._tools, thinking=True) or ""
        return prompt[prompt.rfind(USER) + len(USER) + len(self._header) :]

    def _known_thought(self) -> ThoughtForm | None:
        return known_thought(self._template.source, self._opened())

    # Calls.

    def _calls(self, thought: ThoughtForm | None, content: ContentForm) -> CallForm | None:
        several = self._abilities.several_calls
        count = 3 if several else 1
        text = self._behind_header(self._call(count, VALUES))
        text = without_thought(text, thought, content)
        pieces = split_at_names(text, NAMES[:count])
        if pieces is None:
            return None
        head, *bodies = pieces
        found = find_arguments(bodies)
        if found is None:
            return None
        arguments, spans = found
        middles = [body[:start] for body, (start, _) in zip(bodies, spans, strict=True)]
        rests = [body[end:] for body, (_, end) in zip(bodies, spans, strict=True)]
        user_end = self._user_end()
        tail = without_common_end(rests[-1], user_end)
        if (cut := self._before_end(tail)) != tail:
            tail = without_common_end(cut, self._before_end(user_end))
        mark = trigger(head)
        if mark in user_end:
            mark = head.strip()
        if not several:
            return CallForm(holed(head), holed(middles[0]), None, holed(tail), arguments, mark)
        further = generalised(rests[0], rests[1])
        middle = generalised(middles[0], middles[1])
        return CallForm(head_like(head, further), middle, further, holed(tail), arguments, mark)


def _tool(name: str) -> dict[str, Any]:
    tool = probe_tool(name)
    kinds = {"zqnumber": "integer", "zqlist": "array", "zqobject": "object", "zqtrue": "boolean"}
    more: dict[str, Any] = {key: {"type": kind, "description": "It."} for key, kind in kinds.items()}
    more["zqlist"]["items"] = more["zqobject"]["additionalProperties"] = {"type": "integer"}
    tool["function"]["parameters"]["properties"] |= more
    return tool
