"""Reading golden sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import RolloutError
from rollout.quality.golden import GoldenPrompt, load_golden


def load(tmp_path: Path, *entries: Any) -> tuple[GoldenPrompt, ...]:
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n")
    return load_golden(path)


def test_all_fields(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["city"]}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital?"}]
    plain, full = load(
        tmp_path,
        {"prompt": "Hello"},
        {"id": "x", "messages": messages, "must_match": "P.*s", "json_schema": schema, "max_tokens": 5},
    )
    assert plain.messages == ({"role": "user", "content": "Hello"},)
    assert (plain.id, plain.is_checked, plain.max_tokens) == ("line 1", False, 128)
    assert list(full.messages) == messages
    assert full.is_checked
    assert full.is_json
    assert full.schema == schema
    assert full.max_tokens == 5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "needs either prompt or messages"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "needs either prompt or messages"),
        ({"messages": []}, "messages must be"),
        ({"prompt": 3}, "prompt must be"),
        ({"prompt": "a", "expect": "b"}, "unknown field 'expect'; known are expected"),
        ({"prompt": "a", "must_match": "("}, "no regular expression"),
        ({"prompt": "a", "json_schema": {"type": "objekt"}}, "objekt"),
        ({"prompt": "a", "max_tokens": 0}, "at least 1"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens must be"),
        (["prompt"], "JSON object"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(RolloutError, match=message) as caught:
        load(tmp_path, {"prompt": "fine"}, entry)
    assert "line 2" in str(caught.value)


def test_files_that_are_no_golden_set(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="can't be read"):
        load_golden(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(RolloutError, match="no prompts"):
        load_golden(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RolloutError, match="can't be read"):
        load_golden(tmp_path / "binary.jsonl")
    (tmp_path / "cut.jsonl").write_text("{")
    with pytest.raises(RolloutError, match="line 1"):
        load_golden(tmp_path / "cut.jsonl")


def test_two_prompts_with_one_id(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="two prompts with the id 'a'"):
        load(tmp_path, {"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"})
