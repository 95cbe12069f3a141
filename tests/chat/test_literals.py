"""Arguments in Python, with bare keys and as elements: told as JSON while they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.chat.arguments import ArgumentsReader
from predictor.chat.bare_keys import BareKeyReader
from predictor.chat.elements import ElementReader
from predictor.chat.python_literals import PythonReader
from predictor.chat.sections import python_calls

OPEN: Mapping[str, Any] = {"type": "object"}
CLOSED: Mapping[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}


def parts(reader: ArgumentsReader, text: str, size: int) -> tuple[list[str], str]:
    """What is told of a text that comes in pieces, and what is left of it."""
    told: list[str] = []
    held = ""
    for i in range(0, len(text), size):
        held += text[i : i + size]
        part, taken = reader.take(held)
        told += [part] if part else []
        held = held[taken:]
    return told, held


PYTHON: dict[str, Any] = {
    "()": {},
    "( )": {},
    "(a='x, y', b=2)": {"a": "x, y", "b": 2},
    "(a='it's', b=[1, 2])": {"a": "it's", "b": [1, 2]},
    "(a='say 'no', or 'yes'', b='')": {"a": "say 'no', or 'yes'", "b": ""},
    "(a='f(x='y')', b=1)": {"a": "f(x='y')", "b": 1},
    "(a='no', c='c', b=1)": {"a": "no', c='c", "b": 1},
    "(a='two\nlines')": {"a": "two\nlines"},
    r"""(a='tab\tend', b="it\'s \"q\"")""": {"a": "tab\tend", "b": 'it\'s "q"'},
    r"(a='\ud83d\ude00\x41\101\q')": {"a": "\U0001f600AA\\q"},
    '(a="""print("x", y)\n""", b=\'\'\'\'\'\')': {"a": 'print("x", y)\n', "b": ""},
    "(b={'k': (1, None), \"l\": [True, [],], 3: -.5})": {"b": {"k": [1, None], "l": [True, []], "3": -0.5}},
    "(b=[true, null, {}, 'it', \"a's\"])": {"b": [True, None, {}, "it", "a's"]},
}
BARE_KEYS: dict[str, Any] = {
    "{}": {},
    '{city:<q>Ro: "me", {x}<q>,n:-1}': {"city": 'Ro: "me", {x}', "n": -1},
    "{o:{a:[1,None,true],b:<q><q>},<q>k 1<q>:2}": {"o": {"a": [1, None, True], "b": ""}, "k 1": 2},
    r'{ a : "x, b: \"c\"" , <q>q<q> : [ <q>1<q> , [] ] }': {"a": 'x, b: "c"', "q": ["1", []]},
}
ELEMENTS: dict[str, Any] = {
    "": {},
    "!<a>1 < 2!</b>!</a>!<b>!<item>1!</item>!<item>!<item>x!</item>!</item>!</b>": {
        "a": "1 < 2!</b>",
        "b": [1, ["x"]],
    },
    "!<b>!<b>true!</b>!</b>\n!<a>!</a>": {"b": {"b": True}, "a": ""},
}
READERS: dict[str, tuple[Callable[[], ArgumentsReader], str, dict[str, Any]]] = {
    "Python": (lambda: PythonReader(CLOSED, "]<end>"), "]", PYTHON),
    "bare keys": (lambda: BareKeyReader("<q>"), "", BARE_KEYS),
    "elements": (lambda: ElementReader("!", CLOSED, "!</call>"), "!</call>", ELEMENTS),
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("notation", READERS)
def test_arguments_are_read_however_they_are_cut(notation: str, size: int) -> None:
    make, behind, cases = READERS[notation]
    for text, expected in cases.items():
        reader = make()
        told, left = parts(reader, text + behind, size)
        assert reader.is_done, text
        assert json.loads("".join(told)) == expected, text
        assert left == behind


@pytest.mark.parametrize("notation", READERS)
def test_a_long_text_comes_in_parts(notation: str) -> None:
    make, behind, _ = READERS[notation]
    words = "word " * 100
    text = {"Python": f"(a='{words}')", "bare keys": f"{{a:<q>{words}<q>}}", "elements": f"!<a>{words}!</a>"}
    told, _ = parts(make(), text[notation] + behind, 5)
    assert len(told) > 90
    assert max(map(len, told)) < 20


KEYS = st.text("abcdefgh_", min_size=1, max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.booleans(), st.integers(1, 9))
def test_what_python_writes_is_read(members: dict[str, Any], as_json: bool, size: int) -> None:
    """With its own quotes, and with JSON's texts, lists and objects."""
    write = json.dumps if as_json else repr
    text = f"({', '.join(f'{key}={write(value)}' for key, value in members.items())})"
    reader = PythonReader(OPEN, "]<end>")
    told, _ = parts(reader, text + "]", size)
    assert reader.is_done, text
    assert json.loads("".join(told)) == members, text


@settings(deadline=None, max_examples=60)
@given(st.text("ab'\"\\,=()[]{}: <q>n", max_size=30))
def test_nonsense_is_never_an_error(text: str) -> None:
    for make, _, _ in READERS.values():
        for opening in ("(a='", "{a:<q>", "!<a>", ""):
            reader = make()
            parts(reader, opening + text, 3)
            reader.take_last(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f()", [("f", "{}")]),
        ("f(a='x, y', b=2), g.h()", [("f", '{"a": "x, y", "b": 2}'), ("g.h", "{}")]),
        ("f(a='it's', b=[1, 2])", [("f", '{"a": "it\'s", "b": [1, 2]}')]),
        ("f(", None),
        ("f(a=)", None),
        ("f(a=1", None),
        ("f(a=b)", None),
        ("no call", None),
    ],
)
def test_whole_calls_in_python(text: str, expected: Any) -> None:
    assert python_calls(text, {}) == expected
