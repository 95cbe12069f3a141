"""What ours does with each field that other servers take, field by field, as docs/request-fields.md says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from request_fields import CHAT, FIELDS, HONOURED, IGNORED, MARK, PAGE, REFUSED, SERVERS, Given, table
from scripted_engine import say
from scripted_server import scripted_server

from predictor.engine.request import TokenLogprob
from predictor.structured.compiler import ConstraintCompiler, MakeConstraint
from predictor.structured.grammar import Grammar

BODIES = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"prompt": "Hi"},
}
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class AnyConstraint:
    """Stands for a compiled grammar, which needs a real model's vocabulary; the scripted engine takes any."""

    must_end = False


@pytest.fixture(scope="module")
def scripted() -> Iterator[Any]:
    """One server for all fields: 200 of them would take minutes to start."""
    with scripted_server() as server:
        yield server


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The grammars that the requests of a test asked for."""
    grammars: list[str] = []

    async def whole(self: ConstraintCompiler, grammar: Grammar) -> Any:
        grammars.append(grammar.text)
        return MakeConstraint(AnyConstraint)

    async def after(self: ConstraintCompiler, marker: str, grammar: Grammar, **options: Any) -> Any:
        grammars.append(f"{marker}{grammar.text}{options}")
        return MakeConstraint(AnyConstraint)

    monkeypatch.setattr(ConstraintCompiler, "whole", whole)
    monkeypatch.setattr(ConstraintCompiler, "after", after)
    return grammars


def outcome(scripted: Any, asked: list[str], given: Given, fields: dict[str, Any]) -> tuple[Any, ...]:
    """Whatever a request's fields can change: the status, what the engine was told, and the answer's form."""
    asked.clear()
    scripted.engine.requests = []
    response = scripted.post(PATHS[given.route], {**BODIES[given.route], **fields})
    told = [(r.prompt, r.params, r.constraint is None) for r in scripted.engine.requests]
    if response.headers["content-type"] != "application/json":
        return response.status_code, told, list(asked), response.text.count("usage")
    answer = response.json()
    for changing in ("id", "created"):
        answer.pop(changing, None)
    return response.status_code, told, list(asked), answer


@pytest.fixture(autouse=True)
def one_word(scripted: Any) -> None:
    entry = TokenLogprob(1, b"a", -0.5, (TokenLogprob(1, b"a", -0.5),))
    steps = say("a")
    steps[0] = type(steps[0])("a", (entry,), 1)  # type: ignore[operator]
    scripted.engine.scripts = [steps]


def test_the_page_has_the_table_and_the_table_has_every_field() -> None:
    assert PAGE.read_text().partition(MARK)[2].strip() == table().strip()
    assert {name for names in SERVERS.values() for name in names.split()} == FIELDS.keys()


@pytest.mark.parametrize("name", [n for n, given in FIELDS.items() if given.verdict == REFUSED])
def test_what_would_change_the_answer_is_refused_unless_it_has_no_effect(
    scripted: Any, asked: list[str], name: str
) -> None:
    given = FIELDS[name]
    plain = outcome(scripted, asked, given, given.beside)
    status, told, _, answer = outcome(scripted, asked, given, {**given.beside, name: given.value})
    assert (status, told) == (400, [])
    assert answer["error"]["param"] == name
    assert "not supported" in answer["error"]["message"]
    for harmless in (given.harmless, None):
        assert outcome(scripted, asked, given, {**given.beside, name: harmless}) == plain


@pytest.mark.parametrize("name", [n for n, given in FIELDS.items() if given.verdict == IGNORED])
def test_what_changes_nothing_is_passed_over(scripted: Any, asked: list[str], name: str) -> None:
    given = FIELDS[name]
    for value in (given.value, None):
        fields = {**given.beside, name: value}
        assert outcome(scripted, asked, given, fields) == outcome(scripted, asked, given, given.beside)


@pytest.mark.parametrize(
    "name", [n for n, given in FIELDS.items() if given.verdict == HONOURED and given.tested_here]
)
def test_what_is_honoured_changes_what_is_asked_of_the_engine(
    scripted: Any, asked: list[str], name: str
) -> None:
    given = FIELDS[name]
    plain = outcome(scripted, asked, given, given.beside)
    assert plain[0] == 200
    with_it = outcome(scripted, asked, given, {**given.beside, name: given.value})
    assert with_it != plain
    assert with_it[0] == (404 if name == "model" else 200)
    if name not in BODIES[given.route]:
        assert outcome(scripted, asked, given, {**given.beside, name: None}) == plain


LENIENT = {
    "integers as floats": (
        {"max_tokens": 8.0, "n": 2.0, "top_k": 4.0, "seed": 8.0},
        {"max_tokens": 8, "n": 2, "top_k": 4, "seed": 8},
    ),
    "no limit": ({"max_tokens": -1}, {"max_tokens": 2**40}),
    "all tokens": ({"top_k": -1}, {"top_k": 0}),
    "a random seed": ({"seed": -1}, {}),
    "no stop": ({"stop": ""}, {}),
    "no stop among stops": ({"stop": ["", "a"]}, {"stop": ["a"]}),
    "options without a stream": ({"stream_options": {"include_usage": True}}, {}),
    "empty options": ({"stream_options": {}}, {}),
    "one name twice": ({"max_tokens": 3, "n_predict": 3}, {"max_tokens": 3}),
    "a default model": ({"model": None}, {"model": "tiny"}),
    "an empty model": ({"model": ""}, {"model": "tiny"}),
    "pairs of biases": ({"logit_bias": [[5, -1], [6, False]]}, {"logit_bias": {"5": -1, "6": -1e6}}),
}
LENIENT_IN_CHATS = {
    "top_logprobs without logprobs": ({"logprobs": False, "top_logprobs": 0}, {}),
    "no schema": (
        {"response_format": {"type": "json_object", "schema": None}},
        {"response_format": {"type": "json_object"}},
    ),
    "no grammar": ({"grammar": ""}, {}),
}


@pytest.mark.parametrize("route", ["chat", "completions"])
@pytest.mark.parametrize("case", [*LENIENT, *LENIENT_IN_CHATS])
def test_what_means_the_same_is_taken(scripted: Any, asked: list[str], route: str, case: str) -> None:
    if case in LENIENT_IN_CHATS and route != CHAT:
        route = CHAT
    odd, usual = {**LENIENT, **LENIENT_IN_CHATS}[case]
    given = Given(HONOURED, "", None, route=route)
    results = [outcome(scripted, asked, given, fields) for fields in (odd, usual)]
    if case == "no limit":  # The engine cuts both to what the context has left.
        results = [(status, len(told), forms) for status, told, forms, _ in results]
    assert results[0] == results[1]
    assert results[0][0] == 200


def test_large_seeds_and_many_stops_are_taken(scripted: Any) -> None:
    for seed in (2**32 - 1, 2**63 - 1, -5):
        assert scripted.post(PATHS[CHAT], {**BODIES[CHAT], "seed": seed, "n": 2}).status_code == 200
        seeds = [request.params.native_seed for request in scripted.engine.requests]
        assert seeds == [seed % (2**32 - 1), (seed % (2**32 - 1) + 1) % (2**32 - 1)]
    assert scripted.post(PATHS[CHAT], {**BODIES[CHAT], "stop": ["x" * 60] * 200}).status_code == 200
    for stop in (["x"] * 300, ["x" * 9000] * 2):
        refusal = scripted.post(PATHS[CHAT], {**BODIES[CHAT], "stop": stop})
        assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "stop")


def test_two_names_of_one_field_that_differ_are_refused(scripted: Any) -> None:
    fields = {"repetition_penalty": 1.1, "repeat_penalty": 1.2}
    refusal = scripted.post(PATHS[CHAT], {**BODIES[CHAT], **fields})
    assert refusal.status_code == 400
    assert "mean the same, but differ" in refusal.json()["error"]["message"]


def test_two_forms_are_refused_unless_they_are_one(scripted: Any, asked: list[str]) -> None:
    same = {"guided_choice": ["a"], "structured_outputs": {"choice": ["a"]}}
    assert scripted.post(PATHS[CHAT], {**BODIES[CHAT], **same}).status_code == 200
    differing = {"guided_choice": ["a"], "structured_outputs": {"regex": "a"}}
    refusal = scripted.post(PATHS[CHAT], {**BODIES[CHAT], **differing})
    assert refusal.status_code == 400
    assert "can't be used together" in refusal.json()["error"]["message"]
