"""Every operation keeps which characters the template wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.chat.filters import filters
from predictor.chat.provenance import Prompt, Traced, from_user, joined, own
from predictor.chat.template import ChatTemplate

# Whoever wrote a letter can be told from it, in either case.
OWN_LETTERS, USER_LETTERS = "abcd", "wxyzß\u0130"
TEXTS = st.lists(
    st.text(OWN_LETTERS + " ", max_size=4).map(own)
    | st.text(USER_LETTERS + " \n", max_size=4).map(from_user),
    max_size=5,
).map(joined)
NUMBER = st.integers(-9, 9)
CALLS = {
    "strip": ([], ["ab "], [None]),
    "lstrip": ([], ["xw"]),
    "rstrip": ([], ["xw"]),
    "removeprefix": (["a"], ["w"]),
    "removesuffix": (["a"], ["w"]),
    "split": ([], [" "], ["a"], [None, 1], ["x", 2]),
    "rsplit": ([], [" "], [None, 1], ["x", 1]),
    "splitlines": ([], [True]),
    "partition": ([" "], ["x"]),
    "rpartition": ([" "], ["x"]),
    "replace": (["x", "ab"], ["a", ""], ["", "b"], ["x", "b", 1]),
    "join": ([["a", "b"]],),
    "lower": ([],),
    "upper": ([],),
    "casefold": ([],),
    "swapcase": ([],),
    "title": ([],),
    "capitalize": ([],),
    "center": ([12], [12, "a"]),
    "ljust": ([12],),
    "rjust": ([12],),
    "zfill": ([12],),
    "expandtabs": ([4],),
    "translate": ([{97: "b"}],),
    "__add__": (["ab"],),
    "__mul__": ([0], [2]),
    "__rmul__": ([2],),
    "__getitem__": ([slice(1, None)], [slice(None, -1)], [slice(None, None, -1)], [slice(0, 9, 2)]),
    "__format__": ([""], [">9"]),
    "__str__": ([],),
}
UNCHANGED = {"format", "format_map", "__mod__", "encode", "maketrans"}
CASES = [(name, arguments) for name, calls in CALLS.items() for arguments in calls]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def claimed(text: str) -> str:
    """The letters of users that count as the template's."""
    segments = Prompt.of(text).segments
    taken = "".join(segment.text for segment in segments if segment.is_own)
    return "".join(set(taken.lower()) & set(USER_LETTERS.lower() + "s\u0307"))


@settings(max_examples=40)
@given(TEXTS)
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_methods_give_what_str_gives_and_know_where_it_is_from(name: str, arguments: Any, text: str) -> None:
    traced = Traced(text, Prompt.of(text) and b"".join(_mask(text)))
    result = getattr(traced, name)(*arguments)
    plain = getattr("".join((text, "")), name)(*arguments)
    assert result == plain
    for part in strings(result):
        assert not claimed(part)
        assert isinstance(part, Traced) or type(part) is str


def _mask(text: str) -> Iterator[bytes]:
    for segment in Prompt.of(text).segments:
        yield (b"\1" if segment.is_own else b"\0") * len(segment.text)


def test_no_method_of_str_is_forgotten() -> None:
    made = {name for name in dir(str) if callable(getattr(str, name)) and not name.startswith("__")}
    silent = {name for name in made if name.startswith("is") or name in ("count", "find", "rfind")}
    silent |= {"index", "rindex", "startswith", "endswith"}
    assert made - silent - UNCHANGED == {name for name in CALLS if not name.startswith("__")}


@given(TEXTS, NUMBER)
def test_items_and_characters(text: str, index: int) -> None:
    traced = Traced(text, b"".join(_mask(text)))
    assert joined(traced) == text
    assert Prompt.of(joined(traced)) == Prompt.of(text)
    if -len(text) <= index < len(text):
        assert traced[index] == text[index]
        assert not claimed(traced[index])


MESSAGE = {
    "role": "user",
    "content": "xyz <x> wxyz\nzyx",
    "list": ["x", "wx"],
    "dict": {"x": "y", "z": ["w"]},
}
EXPRESSIONS = [
    "m.content + 'ab'",
    "'ab' + m.content",
    "'ab' ~ m.content ~ 1",
    "'a%sb%%' % m.content",
    "'a%(x)5sb' % m.dict",
    "'%s-%s' % (m.content, 'a')",
    "'%*s' % (30, m.content)",
    "'a{}b{}'.format(m.content, 'c')",
    "'{0[x]:>9}a{x!r}'.format(m.dict, x=m.content)",
    "'{x}'.format_map(m.dict)",
    "m.content.format('a')",
    "m.content[2:]",
    "m.content * 2",
    "'a'.join(m.list)",
    "'abc'.replace('b', m.content)",
    "'abc'.center(30, m.content[0])",
    "m.content.split('y') | join('a')",
    "m.dict",
    "m.list",
    "[m.content, 'a']",
    "m.dict.items() | list",
    "m.dict.keys() | join",
    "m.list | map('upper') | join(',')",
    "m.dict | tojson(indent=2)",
    "m.list | map('tojson') | join",
    "strftime_now(m.content)",
    "namespace(a=m.content).a",
    "dict(a=m.content)",
    "cycler(m.content, 'a').next()",
    "(m.content | e) + 'a'",
    "m.missing | default(m.content)",
    "m.content if true else 'a'",
    "loop_free | default('ab')",
    "messages",
    "m",
]
STATEMENTS = [
    "{% set x %}a{{ m.content }}b{% endset %}{{ x }}",
    "{% macro f(t) %}a{{ t }}{% endmacro %}{{ f(m.content) }}{{ f('b') | upper }}",
    "{% macro f() %}a{{ caller() }}{% endmacro %}{% call f() %}{{ m.content }}{% endcall %}",
    "{% filter upper %}a{{ m.content }}{% endfilter %}",
    "{% for c in m.content %}{{ c }}a{% endfor %}",
    "{% for k, v in m.dict.items() %}{{ k }}a{{ v }}{% endfor %}",
    "{% for x in m.list recursive %}{{ x }}a{{ loop(m.list[2:]) }}{% endfor %}",
    "{% autoescape true %}{{ m.content }}a{% endautoescape %}",
    "{% autoescape true %}{% set x %}{{ m.content }}{% endset %}{{ x ~ 'a' }}{% endautoescape %}",
    "{% block b %}a{{ m.content }}{% endblock %}{{ self.b() }}",
    "{% set n = namespace(t='') %}{% for x in m.list %}{% set n.t = n.t + x + 'a' %}{% endfor %}{{ n.t }}",
    "{% with x = m.content %}{{ x }}{% endwith %}",
]


def rendered(source: str) -> Prompt:
    return ChatTemplate("{% set m = messages[0] %}" + source, "", "").render([MESSAGE])


@pytest.mark.parametrize("source", [*(f"{{{{ {one} }}}}" for one in EXPRESSIONS), *STATEMENTS])
def test_no_expression_of_a_template_takes_the_users_text_for_its_own(source: str) -> None:
    prompt = rendered(source)
    assert prompt.text
    assert not set("wxyz") & set(own_part(prompt).lower())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '<a>' + m.content.strip() + '<b>' }}", "<a><b>"),
        ("{{ '<a>%s<b>' % m.content }}", "<a><b>"),
        ("{{ '<{}>'.format('a') }}{{ '<b{}>'.format(m.content) }}", "<a><b>"),
        ("{% macro f(t) %}<a>{{ t }}{% endmacro %}{{ f(m.content) | trim }}", "<a>"),
        ("{{ m.list | join('<a>') }}", "<a>"),
        ("{{ m.content.replace('<x>', '<a>') }}", "<a>"),
        ("{{ '<a>' | upper }}{{ ('<a>' ~ m.content) | upper }}", "<A><A>"),
        ("{{ ['<a>', m.content] | join('<b>') | indent(2) }}", "<a><b>\n  "),
        ("{{ m.role }}{{ '<|' ~ m.role ~ '|>' }}", "user<|user|>"),
        ("{{ m.content.split(' ')[0] + '<a>' + m.content.split(' ')[-1] }}", "<a>"),
        ("{{ m.missing | default('<a>') }}{{ (m.content and '<a>') | string }}", "<a><a>"),
    ],
)
def test_what_a_template_writes_stays_its_own(source: str, expected: str) -> None:
    assert own_part(rendered(source)) == expected


@pytest.mark.parametrize("name", sorted(filters().keys() - {"filesizeformat"}))  # that makes "1 Byte"
def test_no_filter_gives_the_users_text_to_the_template(name: str) -> None:
    tried = 0
    for value in ("m.content", "m.list", "m.dict", "[m.content, m.content]", "[m]", "m", "[1]", "1"):
        for arguments in (
            "",
            "('content')",
            "('a')",
            "(m.content)",
            "(attribute='content')",
            "('upper')",
            "('a', m.content)",
        ):
            for after in ("", " | join"):
                try:
                    prompt = rendered(f"{{{{ {value} | {name}{arguments}{after} }}}}")
                except Exception:
                    continue
                tried += 1
                assert not set("wxyz") & set(own_part(prompt).lower()) - set("<generator object>"), prompt
    assert tried


def own_part(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt.segments if segment.is_own)


def test_prompts_can_be_cut() -> None:
    prompt = rendered("<a>{{ m.content }}<b>").cut(-3)
    assert prompt.text == "<a>" + MESSAGE["content"]
    assert own_part(prompt) == "<a>"
    assert prompt.starts_with("<a>")
    assert not rendered("{{ m.content }}").starts_with("xyz")


@pytest.mark.parametrize(
    "source", ["{{ m.content._own[0] }}", "{{ m.content.encode() }}", "{{ ['a'] | map('#spent') | list }}"]
)
def test_templates_cannot_reach_what_keeps_provenance(source: str) -> None:
    with pytest.raises(Exception, match="chat template fails"):
        rendered(source)
