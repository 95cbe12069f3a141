"""What a template that isn't safe from its users is told of."""

from __future__ import annotations

import pytest
from control_words import ControlWords

from predictor.chat.template import ChatTemplate
from predictor.chat.turns import weaknesses

WORDS = ControlWords("<|turn|><|apple|><|user|>")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}", []),
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|turn|>{% endfor %}", []),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", ["imitate a turn"]),
        ("<|turn|>{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", ["imitate a turn"]),
        ("{% for m in messages %}<|turn|><|{{ m.content }}|>{% endfor %}", ["makes control tokens out of"]),
        ("<|turn|>{{ messages | tojson }}", ["imitate a turn"]),
        ("{{ raise_exception('no') }}", ["refuses a conversation"]),
    ],
)
def test_weaknesses(source: str, expected: list[str]) -> None:
    found = list(weaknesses(ChatTemplate(source, "", ""), WORDS.tokens))
    assert [part in text for part, text in zip(expected, found, strict=True)] == [True] * len(expected)
