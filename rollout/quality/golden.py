"""The golden set: prompts whose answers are compared, one JSON object a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from rollout.errors import RolloutError

DEFAULT_MAX_TOKENS = 128
_FIELDS = frozenset(
    {"id", "prompt", "messages", "expected", "must_match", "json", "json_schema", "max_tokens"}
)


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """A prompt, and what is known of a right answer to it.

    Attributes:
        id: names it in reports.
        messages: OpenAI's.
        expected: the right answer, compared after normalisation.
        must_match: a regular expression that a right answer contains.
        is_json: whether the answer has to be JSON.
        schema: a JSON schema that the answer has to keep.
        max_tokens: most tokens of an answer.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    expected: str | None = None
    must_match: re.Pattern[str] | None = None
    is_json: bool = False
    schema: Mapping[str, Any] | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS

    @property
    def is_checked(self) -> bool:
        """Whether an answer can be right or wrong."""
        return self.expected is not None or self.must_match is not None or self.is_json


def load_golden(path: Path) -> tuple[GoldenPrompt, ...]:
    """Read a golden set.

    Raises:
        RolloutError: the file can't be read, is empty, or a line isn't as docs/rollouts.md says.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RolloutError(f"the golden set {path} can't be read: {error}") from error
    prompts = [_prompt(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise RolloutError(f"the golden set {path} has no prompts; it needs one JSON object a line")
    ids = [prompt.id for prompt in prompts]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise RolloutError(f"the golden set {path} has two prompts with the id {twice!r}")
    return tuple(prompts)


def _prompt(path: Path, number: int, line: str) -> GoldenPrompt:
    try:
        return _read(json.loads(line), f"line {number}")
    except (ValueError, jsonschema.SchemaError) as error:
        message = error.message if isinstance(error, jsonschema.SchemaError) else str(error)
        raise RolloutError(f"{path}, line {number}: {message}") from error


def _read(entry: Any, default_id: str) -> GoldenPrompt:
    if not isinstance(entry, dict):
        raise ValueError("must be a JSON object")
    if unknown := sorted(entry.keys() - _FIELDS):
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}")
    schema = _typed(entry, "json_schema", dict)
    if schema is not None:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    pattern = _typed(entry, "must_match", str)
    max_tokens = _typed(entry, "max_tokens", int)
    if max_tokens is not None and max_tokens < 1:
        raise ValueError("max_tokens must be at least 1")
    return GoldenPrompt(
        id=_typed(entry, "id", str) or default_id,
        messages=_messages(entry),
        expected=_typed(entry, "expected", str),
        must_match=None if pattern is None else _pattern(pattern),
        is_json=bool(_typed(entry, "json", bool)) or schema is not None,
        schema=schema,
        max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
    )


def _messages(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    prompt, messages = _typed(entry, "prompt", str), _typed(entry, "messages", list)
    if (prompt is None) == (messages is None):
        raise ValueError("needs either prompt or messages")
    if messages is None:
        return ({"role": "user", "content": prompt},)
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError("messages must be a list of objects, and not empty")
    return tuple(messages)


def _typed(entry: Mapping[str, Any], name: str, kind: type) -> Any:
    value = entry.get(name)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ValueError(f"{name} must be of the JSON type that Python calls {kind.__name__}")
    return value


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise ValueError(f"must_match is no regular expression: {error}") from error
