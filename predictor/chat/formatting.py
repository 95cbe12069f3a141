"""`str.format` and the operator `%`, which keep where each character came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter

from predictor.chat.provenance import as_text, derived, from_user, joined

_CONVERSION = re.compile(
    r"%(?:\((?P<key>[^()]*)\))?(?P<how>[#0\- +]*\d*(?:\.\d*)?[hlL]?)(?P<type>[diouxXeEfFgGcrsa%])"
)


def format_text(
    environment: SandboxedEnvironment, form: str, arguments: Sequence[Any], named: Mapping[str, Any]
) -> str:
    """`form.format(*arguments, **named)` within the sandbox."""
    formatter = SandboxedFormatter(environment)
    pieces: list[str] = []
    automatic = 0
    for literal, field, spec, conversion in formatter.parse(form):
        pieces.append(derived(literal, form))
        if field is None:
            continue
        if not field or field[0] in ".[":  # "{}" and "{.name}" take the next argument.
            field = f"{automatic}{field}"
            automatic += 1
        value, _ = formatter.get_field(field, arguments, named)
        if conversion:
            value = derived(formatter.convert_field(value, conversion), value)
        spec = formatter.vformat(spec or "", arguments, named)
        pieces.append(derived(formatter.format_field(value, spec), value) if spec else as_text(value))
    return joined(pieces)


def format_percent(form: str, values: Any) -> str:
    """`form % values`."""
    text = str.__mod__(form, values)
    left = iter(values if isinstance(values, tuple) else (values,))
    pieces: list[str] = []
    end = 0
    for match in _CONVERSION.finditer(form):
        pieces.append(form[end : match.start()])
        end = match.end()
        if match["type"] == "%":
            pieces.append("%")
            continue
        value = next(left, None) if match["key"] is None else values[match["key"]]
        if match["type"] == "s" and not match["how"]:
            pieces.append(as_text(value))
        else:
            pieces.append(derived(f"%{match['how']}{match['type']}" % (value,), value))
    pieces.append(form[end:])
    whole = joined(pieces)
    # A width that is a value itself isn't followed here.
    return whole if whole == text else from_user(text)
