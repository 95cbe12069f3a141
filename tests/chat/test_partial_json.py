"""Arguments that were cut off are kept as far as they go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.chat.partial_json import complete_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("{", {}),
        ('{"ci', {}),
        ('{"city', {}),
        ('{"city"', {}),
        ('{"city":', {}),
        ('{"city": ', {}),
        ('{"city": "Ro', {"city": "Ro"}),
        ('{"city": "Ro\\', {"city": "Ro"}),
        ('{"city": "Ro\\u00', {"city": "Ro"}),
        ('{"city": "Rome", ', {"city": "Rome"}),
        ('{"city": "Rome", "da', {"city": "Rome"}),
        ('{"city": "Rome", "days": 1', {"city": "Rome", "days": 1}),
        ('{"city": "Rome", "ok": tr', {"city": "Rome"}),
        ('{"a": [1, {"b": "x', {"a": [1, {"b": "x"}]}),
        ('{"a": {"b": 1}, "c": [', {"a": {"b": 1}, "c": []}),
        ("[1", {}),
        ("nonsense", {}),
    ],
)
def test_what_was_said_stays(text: str, expected: dict[str, Any]) -> None:
    assert complete_object(text) == expected


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.floats(0, 1))
def test_any_cut_gives_an_object_of_the_first_keys(whole: dict[str, Any], part: float) -> None:
    text = json.dumps(whole)
    assert complete_object(text) == whole
    cut = complete_object(text[: int(len(text) * part)])
    assert list(whole)[: len(cut)] == list(cut)
