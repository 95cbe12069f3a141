"""Learns a template's form of answers by rendering small conversations and comparing what comes back.

An answer in the history is written as the model would write it. So the rendering of one with a call, of one
with three and of one with a thought tell what stands before, between and behind their parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.abilities import (
    ANSWER,
    IDS,
    NAMES,
    THOUGHT,
    USER,
    Abilities,
    Prober,
    answer,
    calls_of,
    probe_tool,
    user,
)
from predictor.chat.form import (
    AnswerForm,
    Arguments,
    CallForm,
    ContentForm,
    ElementArguments,
    JsonArguments,
    Pattern,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
    ThoughtForm,
)
from predictor.chat.matching import common_start
from predictor.chat.template import ChatTemplate

# A value of each kind that templates may write differently; the texts can't be mistaken for anything else.
VALUES: Mapping[str, Any] = {
    "zqkey": "zqvalue",
    "zqother": "zqword",
    "zqnumber": 7071,
    "zqlist": [7072, True],
    "zqobject": {"zqinner": 7073},
    "zqtrue": True,
}
# Where a template never shows a thought, these tell that its model thinks nevertheless.
_KNOWN_THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
_MARK_START = re.compile(r"[<\[\n ]|$")
_OPEN_MARK = re.compile(r"[<\[][^<>\[\]\n]*$")
_LAST_MARK = re.compile(r"(<[^<>\n]*>|\[[A-Z_ ]+\])\s*$")
_FIRST_MARK = re.compile(r"\s*(<[^<>\n]*>|\[/?[A-Z_ ]+\])\s*")
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
        ]
        texts = [text[text.rfind(USER) + len(USER) :] for text in prompts if text is not None]
        for message in (answer(), self._thinking(answer())):
            texts += filter(None, [self._render(message)])
        if self._abilities.shows_calls:
            texts += filter(None, [self._render(self._call(1))])
        header = common_start(texts)
        header = _OPEN_MARK.sub("", header)
        behind = [text[len(header) :] for text in texts]
        # A mark of two tags, such as <|open|>think<|sep|>, must not be split.
        names = [text for text in behind if re.match(r"\w", text) and not text.startswith((ANSWER, THOUGHT))]
        mark = _LAST_MARK.search(header)
        if mark and any(_SPEAKS_OF_THOUGHT.match(name) for name in names):
            header = header[: mark.start()]
        mark = _LAST_MARK.search(header)
        if mark and _SPEAKS_OF_THOUGHT.search(mark[0]):
            return header[: mark.start()]
        return header + self._repeated_header(header, prompts[0] or "", texts[-1])

    def _repeated_header(self, header: str, prompt: str, answer: str) -> str:
        """The rest of the header, where prompts say something else between the user's words and it."""
        behind = answer[len(header) :]
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
        return _after(plain, ANSWER), _after(with_call, ANSWER)

    def _content_end(self, plain: str, with_call: str) -> str:
        if with_call:
            end = _OPEN_MARK.sub("", common_start([plain, with_call]))
            return end if end.strip() and end.strip() != plain.strip() else ""
        end = self._before_end(plain)
        call = self._behind_header(self._call(1)) if self._abilities.shows_calls else ""
        if end == plain and call:
            end = plain[: len(plain) - len(_common_end(plain, call))]
        ends_turn = end.strip() == plain.strip() or end.strip() in self._user_end()
        return end if _LAST_MARK.search(end) and not ends_turn else ""

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
        if not (self._abilities.thought_fields or self._abilities.thought_parts):
            return self._known_thought(), _last_marks(content_start, self._known_thought())
        with_text = self._behind_header(self._thinking(answer()), thinking=True)
        between_text = _between(with_text, THOUGHT, ANSWER)
        before_call = before_call_end = ""
        if self._abilities.shows_calls:
            with_call = self._behind_header(self._thinking(self._call(1)), thinking=True)
            plain_call = self._behind_header(self._call(1))
            head = plain_call.partition(NAMES[0])[0]
            before_call = _between(with_call, THOUGHT, NAMES[0])
            before_call_end = before_call[: len(before_call) - len(_common_end(before_call, head))]
            if not before_call_end.strip() and (mark := _FIRST_MARK.match(before_call)):
                before_call_end = mark[0]
            if THOUGHT not in with_text:
                with_text = with_call
        start = with_text.partition(THOUGHT)[0]
        if not start.strip():
            start = self._opened()
        if between_text and before_call:
            end = _OPEN_MARK.sub("", common_start([between_text, before_call]))
            if end.strip():
                return ThoughtForm(start, end), between_text[len(end) :]
        if between_text:
            return ThoughtForm(start, between_text), ""
        return ThoughtForm(start, before_call_end), _last_marks(content_start, None)

    def _opened(self) -> str:
        """What the prompt opens for a thought."""
        prompt = self._prober.render([user()], self._tools, thinking=True) or ""
        return prompt[prompt.rfind(USER) + len(USER) + len(self._header) :]

    def _known_thought(self) -> ThoughtForm | None:
        opened = self._opened()
        source = self._template.source
        for start, end in _KNOWN_THOUGHTS:
            if end in source or start in opened:
                return ThoughtForm(start, end)
        return None

    # Calls.

    def _calls(self, thought: ThoughtForm | None, content: ContentForm) -> CallForm | None:
        several = self._abilities.several_calls
        count = 3 if several else 1
        text = self._behind_header(self._call(count, VALUES))
        text = _without_thought(text, thought, content)
        pieces = _split_at_names(text, NAMES[:count])
        if pieces is None:
            return None
        head, *bodies = pieces
        found = _find_arguments(bodies, self._abilities)
        if found is None:
            return None
        arguments, spans = found
        middles = [body[:start] for body, (start, _) in zip(bodies, spans, strict=True)]
        rests = [body[end:] for body, (_, end) in zip(bodies, spans, strict=True)]
        user_end = self._user_end()
        tail = _without_common_end(rests[-1], user_end)
        if (cut := self._before_end(tail)) != tail:
            tail = _without_common_end(cut, self._before_end(user_end))
        trigger = _trigger(head)
        if trigger in user_end:
            trigger = head.strip()
        if not several:
            return CallForm(_holed(head), _holed(middles[0]), None, _holed(tail), arguments, trigger)
        between = _generalised(rests[0], rests[1])
        middle = _generalised(middles[0], middles[1])
        return CallForm(_head_like(head, between), middle, between, _holed(tail), arguments, trigger)


def _tool(name: str) -> dict[str, Any]:
    tool = probe_tool(name)
    kinds = {"zqnumber": "integer", "zqlist": "array", "zqobject": "object", "zqtrue": "boolean"}
    more: dict[str, Any] = {key: {"type": kind, "description": "It."} for key, kind in kinds.items()}
    more["zqlist"]["items"] = more["zqobject"]["additionalProperties"] = {"type": "integer"}
    tool["function"]["parameters"]["properties"] |= more
    return tool


# Finding the arguments.


def _find_arguments(
    bodies: Sequence[str], abilities: Abilities
) -> tuple[Arguments, list[tuple[int, int]]] | None:
    """The style of the arguments, and where they stand in the text behind each name."""
    spans = [_json_span(body) for body in bodies]
    if all(span is not None for span in spans):
        return JsonArguments(), [span for span in spans if span is not None]
    return _other_arguments(bodies)


def _json_span(body: str) -> tuple[int, int] | None:
    start = body.find("{")
    while start >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(body, start)
        except ValueError:
            start = body.find("{", start + 1)
            continue
        if value == VALUES:
            return start, end
        start = body.find("{", start + 1)
    return None


def _other_arguments(bodies: Sequence[str]) -> tuple[Arguments, list[tuple[int, int]]] | None:
    first = bodies[0]
    keys = list(VALUES)
    places = {key: first.find(key) for key in keys}
    if min(places.values()) < 0:
        return None
    order = sorted(keys, key=lambda key: places[key])
    before = first[: places[order[0]]]
    opening = first[places["zqkey"] + len("zqkey") : first.find("zqvalue")]
    if before.endswith("(") and opening.startswith("="):
        spans = [(body.find("("), body.rfind("True)") + len("True)")) for body in bodies]
        return PythonArguments(), spans
    if before.endswith("{") and opening.startswith(":"):
        ends = [_closing_brace(body) for body in bodies]
        return QuotedArguments(opening[1:]), [
            (body.find("{"), end) for body, end in zip(bodies, ends, strict=True)
        ]
    if f"</{order[0]}>" in first:
        return _elements(bodies, order)
    return _tagged(bodies, order)


def _closing_brace(body: str) -> int:
    depth = 0
    for i, character in enumerate(body):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return i + 1
    return len(body)


def _elements(bodies: Sequence[str], order: Sequence[str]) -> tuple[Arguments, list[tuple[int, int]]] | None:
    closing = f"</{order[0]}>"
    first = bodies[0]
    prefix = _between(first, VALUES["zqkey"], "</zqkey>")
    spans = []
    for body in bodies:
        start = body.find(f"{prefix}<{order[0]}>")
        last = f"{prefix}</{order[-1]}>"
        spans.append((start, body.find(last) + len(last)))
    return (ElementArguments(prefix), spans) if closing in first else None


def _tagged(bodies: Sequence[str], order: Sequence[str]) -> tuple[Arguments, list[tuple[int, int]]] | None:
    first = bodies[0]
    written = {key: _written(first, key) for key in order}
    if any(span is None for span in written.values()):
        return None
    values = {key: span for key, span in written.items() if span is not None}
    openings: dict[str, bool | None] = {}
    for key in order:
        opening = first[first.find(key) + len(key) : values[key][0]]
        is_text = isinstance(VALUES[key], str)
        openings[opening] = is_text if openings.get(opening, is_text) == is_text else None
    first_key = first[: first.find(order[0])]
    next_key = first[values[order[0]][1] : first.find(order[1], values[order[0]][1])]
    key_start = _common_end(first_key, next_key)
    value_end = next_key[: len(next_key) - len(key_start)]
    if value_end == "" or key_start == "":
        return None
    spans = []
    for body in bodies:
        start = body.find(key_start + order[0])
        last = _written(body, order[-1])
        if last is None:
            return None
        spans.append((start, last[1] + len(value_end.rstrip())))
    python = str(VALUES["zqlist"]) in first
    return TaggedArguments(key_start, openings, value_end, python), spans


def _written(body: str, key: str) -> tuple[int, int] | None:
    """Where the value of a key stands."""
    value = VALUES[key]
    forms = [value] if isinstance(value, str) else [json.dumps(value), str(value)]
    after_key = body.find(key) + len(key)
    for form in forms:
        at = body.find(form, after_key)
        if at >= 0:
            return at, at + len(form)
    return None


# Comparing texts.


def _split_at_names(text: str, names: Sequence[str]) -> list[str] | None:
    """The text before each name and behind the last one."""
    pieces, start = [], 0
    for name in names:
        at = text.find(name, start)
        if at < 0:
            return None
        pieces.append(text[start:at])
        start = at + len(name)
    return [*pieces, text[start:]]


def _holed(text: str) -> Pattern:
    """A text with holes in place of the probes' ids and names."""
    parts = re.split("|".join((*IDS, *NAMES)), text)
    holed: list[str | None] = []
    for i, part in enumerate(parts):
        holed += [part] if i == 0 else [None, part]
    return tuple(part for part in holed if part != "")


def _generalised(one: str, two: str) -> Pattern:
    """What two texts have in common, with a hole where they differ by a count."""
    one, two = (re.sub("|".join((*IDS, *NAMES)), "\0", text) for text in (one, two))
    pieces_one, pieces_two = (re.split(r"(\0|\d+)", text) for text in (one, two))
    if pieces_one[::2] != pieces_two[::2]:
        pieces_two = pieces_one
    pairs = zip(pieces_one, pieces_two, strict=True)
    return _merged([None if left == "\0" or left != right else left for left, right in pairs])


def _head_like(head: str, between: Pattern | None) -> Pattern:
    """The head, with a hole for the count that `between` has at the same distance from the name."""
    holed = _holed(head)
    if not holed or not between or between[-1] is None or len(between) < 3 or between[-2] is not None:
        return holed
    last, end = holed[-1], between[-1]
    found = re.search(rf"\d+(?={re.escape(end)}$)", last) if last else None
    if not last or not found:
        return holed
    return (*holed[:-1], last[: found.start()], None, last[found.end() :])


def _trigger(head: str) -> str:
    """The part of a head that nothing else begins with: its first mark, mostly."""
    head = re.split("|".join((*IDS, *NAMES)), head)[0].strip()
    tag_end = max(head.find(">"), head.find("]"))
    blank = next((i for i, character in enumerate(head) if character.isspace()), len(head))
    if head.startswith(("{", "[{")) or (tag_end < 0 and head.startswith("<")) or 0 <= blank <= tag_end:
        return head
    marks = re.match(r"(<[^<>]+>)<", head)
    if marks:
        return marks[1]
    head = head[:blank]
    brace = head.find("{", 1)
    head = head[:brace] if brace > 0 else head
    return head[:-1] if head.endswith(("][", ">[")) else head


def _merged(parts: Sequence[str | None]) -> Pattern:
    merged: list[str | None] = []
    for part in parts:
        if part == "":
            continue
        if part is not None and merged and merged[-1] is not None:
            merged[-1] += part
        elif part is not None or not merged or merged[-1] is not None:
            merged.append(part)
    return tuple(merged)


def _without_thought(text: str, thought: ThoughtForm | None, content: ContentForm) -> str:
    """What an answer says behind a thought that is empty or was closed by the prompt, and empty content."""
    if thought is not None:
        before, end, after = text.partition(thought.end.strip())
        if end and before.strip() in ("", thought.start.strip()):
            text = after
    for mark in (content.start.strip(), content.end.strip()):
        if mark and text.lstrip().startswith(mark):
            text = text.lstrip()[len(mark) :]
    return text


def _last_marks(text: str, thought: ThoughtForm | None) -> str:
    """What begins content, where nothing but marks stands before it."""
    if thought is not None:
        text = text.rpartition(thought.end.strip())[2]
    text = re.sub(r"^.*</?\w*think\w*>", "", text, flags=re.DOTALL)
    return text if _LAST_MARK.search(text) else ""


def _between(text: str, start: str, end: str) -> str:
    _, found, rest = text.partition(start)
    middle, closed, _ = rest.partition(end)
    return middle if found and closed else ""


def _after(text: str, word: str) -> str:
    return text.partition(word)[2]


def _common_end(one: str, two: str) -> str:
    """The longest common end of two texts that begins at a mark."""
    length = len(common_start([one[::-1], two[::-1]]))
    end = one[len(one) - length :]
    begin = _MARK_START.search(end)
    return end[begin.start() :] if begin else ""


def _without_common_end(text: str, other: str) -> str:
    return text[: len(text) - len(_common_end(text, other))]
