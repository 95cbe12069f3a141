"""The worst that a field of a request can hold: JSON texts of any size, made without a parser's help."""

from __future__ import annotations

from collections.abc import Callable

CONTROL = "<|im_start|><|im_end|>"


def _repeated(item: str, size: int, opening: str = "[", closing: str = "]") -> bytes:
    count = max(1, size // (len(item) + 1))
    return f"{opening}{','.join([item] * count)}{closing}".encode()


def _text(part: str, size: int) -> bytes:
    return f'"{part * (size // len(part))}"'.encode()


def _nested(opening: str, closing: str, size: int) -> bytes:
    depth = size // (len(opening) + len(closing))
    return f"{opening * depth}1{closing * depth}".encode()


def _members(size: int) -> bytes:
    return b"{" + b",".join(b'"%d":1' % i for i in range(size // 11)) + b"}"


KINDS: dict[str, Callable[[int], bytes]] = {
    "one text": lambda size: _text("x", size),
    "one text of blanks": lambda size: _text(" ", size),
    "one text of words": lambda size: _text("word ", size),
    "control tokens": lambda size: _text(CONTROL, size),
    "escaped text": lambda size: _text("\\u00e9\\n", size),
    "JSON in a text": lambda size: _text('[{\\"a\\":1},', size),
    "brackets in a text": lambda size: _text("[", size),
    "digits": lambda size: b"9" * size,
    "numbers": lambda size: _repeated("1", size),
    "lists of a number": lambda size: _repeated("[1]", size),
    "empty texts": lambda size: _repeated('""', size),
    "short texts": lambda size: _repeated('"a"', size),
    "long texts": lambda size: _repeated('"' + "x" * (size // 16) + '"', size),
    "control tokens in a list": lambda size: _repeated(f'"{CONTROL}"', size),
    "empty objects": lambda size: _repeated("{}", size),
    "messages": lambda size: _repeated('{"role":"user","content":"a"}', size),
    "tool results": lambda size: _repeated('{"role":"tool","content":"a","tool_call_id":"b"}', size),
    "parts": lambda size: (
        b'[{"role":"user","content":' + _repeated('{"type":"text","text":""}', size) + b"}]"
    ),
    "a long message": lambda size: b'[{"role":"user","content":' + _text(CONTROL, size) + b"}]",
    "prompts": lambda size: _repeated('{"prompt":"a"}', size),
    "tools": lambda size: _repeated('{"type":"function","function":{"name":"f","parameters":{}}}', size),
    "a tensor": lambda size: (
        b'[{"name":"prompt","datatype":"BYTES","shape":[1],"data":' + _repeated('"a"', size) + b"}]"
    ),
    "tensors": lambda size: _repeated('{"name":"a","datatype":"BYTES","shape":[1],"data":["a"]}', size),
    "a schema": lambda size: (
        b'{"type":"json_schema","json_schema":{"name":"a","schema":{"anyOf":'
        + _repeated('{"type":"string"}', size)
        + b"}}}"
    ),
    "a deep schema": lambda size: (
        b'{"type":"json_schema","json_schema":{"name":"a","schema":' + _nested('{"not":', "}", size) + b"}}"
    ),
    "members": _members,
    "deep lists": lambda size: _nested("[", "]", size),
    "deep objects": lambda size: _nested('{"a":', "}", size),
}
"""What each is, by how many bytes it should take about."""
