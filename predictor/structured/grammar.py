"""Grammars for answers, in llguidance's Lark-like syntax.

Source of the syntax: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.errors import InvalidRequest
from predictor.structured.leniency import schema_nodes

MAX_CHARACTERS = 256 * 1024
"""Of one grammar that a request brings, the schemas in it included."""
MAX_WRITTEN = 4 * MAX_CHARACTERS
"""Of one that is written here from what a request brings."""
MAX_DEPTH = 64
MAX_RULES = 500

# As in llama.cpp's own grammars for JSON. Without bounds a weak model may write white space up to its limit.
_WHITE_SPACE = r" |\n{1,2}[ \t]{0,20}"
# Each of these is multiplied with what stands beside it.
_ALTERNATIVES = frozenset({"$ref", "anyOf", "oneOf"})
_NUMBER = re.compile(r"\[(\d+)\]")
_DEFINITIONS = ("/$defs/", "/definitions/")
SAYS_NOTHING = frozenset(
    {
        *("$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description"),
        *("discriminator", "example", "examples", "readOnly", "title", "writeOnly", "x-guidance"),
    }
)
# Compiling any other keyword may take any time and memory, whatever limits llguidance is given.
_CHEAP = frozenset(
    {
        *("additionalProperties", "const", "enum", "items", "prefixItems", "properties", "required", "type"),
        *_ALTERNATIVES,
        *SAYS_NOTHING,
    }
)
# With numbers that are far from the end of their type, beyond which llguidance has been seen to crash.
_CHEAP_BOUNDS = {
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), 10_000),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), 10**12),
}
_CHEAP_CHARACTERS = 16 * 1024
_CHEAP_REFERENCES = 50
"""And alternatives."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like.

    Attributes:
        text: in Lark syntax, with a rule `start`.
        param: the request field it comes from, for error messages.
        is_costly: whether it must be tried in a process of its own before it is compiled here.
        not_enforced: places of keywords that it passes over, each the request's field and a JSON pointer.
        origins: of the schemas in the text in their order, the field and the pointer where each stands.
        most: characters that the text may have.
        begun: what of the answer is there already, and which it goes on with.
    """

    text: str
    param: str
    is_costly: bool = False
    not_enforced: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    most: int = MAX_CHARACTERS
    begun: str = ""

    def __post_init__(self) -> None:
        if len(self.text) > self.most:
            raise InvalidRequest(f"{self.param} is longer than {self.most} characters", param=self.param)

    def named(self, place: str) -> str:
        """A place in one of the text's schemas, `[number]` and a pointer, as a place in the request."""
        found = _NUMBER.match(place)
        number = int(found[1]) if found else 0
        if number >= len(self.origins):
            return f"{self.param}{place}" if found else f"{self.param}#{place}"
        inner = place[found.end() :] if found else place
        origin = self.origins[number]
        if inner.startswith(_DEFINITIONS):  # They stand at the root of the schema that the place is in.
            origin = re.sub(r"(?<=[#\]])/.*", "", origin)
        return f"{origin}{inner}"


def json_schema_grammar(schema: Any, param: str, *, strict: bool) -> Grammar:
    """JSON that a schema allows.

    Raises:
        InvalidRequest: the schema isn't a JSON object, or is too large or too deep.
    """
    text = f"start: {inline_schema(schema, param, strict=strict)}"
    return Grammar(text, param, is_costly(schema), origins=(f"{param}#",))


def inline_schema(schema: Any, param: str, *, strict: bool) -> str:
    """A schema as a part of a grammar's rule.

    Args:
        schema: the schema.
        param: the request field it comes from.
        strict: whether keywords that can't be enforced are an error; otherwise they are passed over.

    Raises:
        InvalidRequest: it isn't a JSON object, or is too deep.
    """
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"the schema in {param} must be a JSON object", param=param)
    if depth(schema) > MAX_DEPTH:
        raise InvalidRequest(f"the schema in {param} is nested deeper than {MAX_DEPTH} levels", param=param)
    options = {
        "item_separator": ",",
        "key_separator": ":",
        "whitespace_pattern": _WHITE_SPACE,
        "lenient": not strict,
    }
    return "%json " + json.dumps({**schema, "x-guidance": options})


def gbnf_grammar(text: str, param: str) -> Grammar:
    """A grammar in llama.cpp's GBNF.

    Source of the format: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md

    Raises:
        InvalidRequest: it isn't GBNF, has too many rules, or names tokens (`<[1000]>`, `<think>`).
    """
    from llguidance.gbnf_to_lark import gbnf_to_lark

    # Checked before it is converted, since that takes time too.
    plain = Grammar(text, param)
    if text.count("::=") > MAX_RULES:
        raise InvalidRequest(f"{param} has more than {MAX_RULES} rules", param=param)
    try:
        return Grammar(gbnf_to_lark(_plain_escapes(plain.text)), param, is_costly=True)
    except InvalidRequest:
        raise
    except Exception as error:  # The converter raises bare exceptions.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or "cut off"
        raise InvalidRequest(f"{param} can't be read as GBNF: {reason}", param=param) from None


def choice_grammar(choices: Sequence[str], param: str) -> Grammar:
    """One of some texts.

    Raises:
        InvalidRequest: they are too long.
    """
    options = " | ".join(json.dumps(text) for text in dict.fromkeys(choices))
    return Grammar(f"start: {options}", param, len(options) > _CHEAP_CHARACTERS)


def regex_grammar(pattern: str, param: str) -> Grammar:
    """What a regular expression matches as a whole, in the syntax of Rust's `regex` crate.

    Raises:
        InvalidRequest: it is too long.
    """
    return Grammar(f"start: {lark_regex(_ANCHORS.sub('', pattern))}", param, is_costly=True)


def lark_regex(pattern: str) -> str:
    """A regular expression as a terminal."""
    one_line = pattern.replace("\n", "\\n").replace("\r", "\\r")
    return f"/{_SLASH.sub(_escaped_slash, one_line) or '()'}/"


def is_costly(schema: Any) -> bool:
    """Whether compiling a schema might take long: certainly not for what most requests send."""
    references = 0
    for _, node in schema_nodes(schema):
        alternatives = _ALTERNATIVES & node.keys()
        if alternatives and len(node.keys() - SAYS_NOTHING) > 1:
            return True
        if not all(_is_cheap(key, value) for key, value in node.items()):
            return True
        references += sum(_alternatives(node[key]) for key in alternatives)
        if references > _CHEAP_REFERENCES:
            return True
    return len(json.dumps(schema)) > _CHEAP_CHARACTERS


def _is_cheap(key: str, value: Any) -> bool:
    if key in _CHEAP:
        return True
    return key in _CHEAP_BOUNDS and isinstance(value, int | float) and abs(value) <= _CHEAP_BOUNDS[key]


def _alternatives(value: Any) -> int:
    """How many there are in a list, but for references, which are counted by themselves; else 1."""
    if not isinstance(value, list):
        return 1
    return sum(not (isinstance(item, Mapping) and "$ref" in item) for item in value)


def depth(value: Any) -> int:
    """How many objects and arrays are inside one another."""
    deepest, level = 0, [value]
    while level := [inner for item in level for inner in _inner(item)]:
        deepest += 1
        if deepest > MAX_DEPTH:
            break
    return deepest


def _inner(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


# A match is always of the whole answer, which other servers' users say by anchors.
_ANCHORS = re.compile(r"\A\^|(?<!\\)\$\Z")
_SLASH = re.compile(r"\\.|/", re.DOTALL)


def _escaped_slash(match: re.Match[str]) -> str:
    return "\\/" if match[0] == "/" else match[0]


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


def _plain_escapes(text: str) -> str:
    """GBNF with its Unicode escapes written out, as the converter spoils those with leading zeros."""

    def plain(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if not code or int(code, 16) < 0x80:
            return f"\\x{int(code, 16):02x}" if code else match[0]
        try:
            character = chr(int(code, 16))
            character.encode()
        except (ValueError, OverflowError):
            return match[0]
        return character

    return _ESCAPE.sub(plain, text)
