"""Calls written in a form, for templates that don't show those of earlier answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from predictor.chat.conversation import Call
from predictor.chat.form import CallForm, Pattern, PythonArguments
from predictor.chat.provenance import from_user, own


def written_calls(form: CallForm, calls: Sequence[Call]) -> str:
    """The text of calls as the model would write them; its marks count as the template's own text."""
    text: str = _filled(form.head)
    for i, call in enumerate(calls):
        if i:
            text += _filled(form.between or form.head)
        text += from_user(call.name) + _filled(form.middle) + from_user(_arguments(form, call))
    return text + _filled(form.tail)


def _filled(pattern: Pattern) -> str:
    return own("".join("0" if part is None else part for part in pattern))


def _arguments(form: CallForm, call: Call) -> str:
    if not isinstance(form.arguments, PythonArguments):
        return json.dumps(call.arguments, ensure_ascii=False)
    members = (f"{key}={_python(value)}" for key, value in call.arguments.items())
    return f"({', '.join(members)})"


def _python(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else repr(value)
