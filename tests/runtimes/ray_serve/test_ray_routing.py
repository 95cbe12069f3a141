"""Which replica and which model get a request; none of it needs Ray to run."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from runtimes.ray_serve.prefix import BLOCK_CHARACTERS, prefix_keys
from runtimes.ray_serve.router import PrefixTable, preference
from runtimes.ray_serve.traffic import TrafficSplit

LONG = "The sea is wide. " * 100
WHOLE_BLOCKS = len(LONG) // BLOCK_CHARACTERS


def keys(**fields: Any) -> tuple[int, ...]:
    return prefix_keys(json.dumps({"model": "m", "max_tokens": 3, **fields}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": LONG},
        {"text_input": LONG},
        {"sys_msg": LONG, "prompt": "q"},
        {"instances": [{"prompt": LONG, "temperature": 0}]},
        {"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [LONG]}]},
        {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "q"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
        {"instructions": LONG, "input": "q"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": LONG}]}]},
        {"system": LONG, "messages": [{"role": "user", "content": "q"}]},
    ],
)
def test_every_protocols_prompt_has_keys(fields: dict[str, Any]) -> None:
    assert len(keys(**fields)) in (WHOLE_BLOCKS, WHOLE_BLOCKS + 1)


def test_what_a_client_is_billed_by_is_no_part_of_the_prompt() -> None:
    def of(billed: str) -> tuple[int, ...]:
        blocks = [f"x-anthropic-billing-header: cch={billed};", LONG]
        return keys(system=[{"type": "text", "text": text} for text in blocks], messages=[])

    assert of("1") == of("2") != ()


def test_keys_agree_as_far_as_the_texts_do() -> None:
    first, second = keys(prompt=LONG + "a" * 600), keys(prompt=LONG + "b" * 600)
    common = [a == b for a, b in zip(first, second, strict=True)]
    assert common == sorted(common, reverse=True)
    assert sum(common) == WHOLE_BLOCKS
    assert keys(prompt=LONG)[:3] == first[:3]
    assert keys(prompt="x" + LONG)[0] != first[0]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"prompt": 7}', b'{"prompt": "short"}', b"\xff"])
def test_bodies_without_a_long_prompt_have_none(body: bytes) -> None:
    assert prefix_keys(body) == ()


class Replicas:
    """Three replicas, their loads, and the table."""

    def __init__(self, **busy: int) -> None:
        self.busy = {"a": 0, "b": 0, "c": 0} | busy
        self.table = PrefixTable(capacity=100)

    def order(self, keys: tuple[int, ...], most_ahead: int = 4) -> list[Any]:
        busy = self.busy
        return preference(list(busy), keys, self.table, lambda name: (busy[name], 0), most_ahead)  # type: ignore


def test_the_one_that_knows_the_prompt_comes_first() -> None:
    replicas = Replicas(c=3)
    replicas.table.add((1, 2, 3), "c")  # type: ignore[arg-type]
    assert replicas.order((1, 2, 3, 4)) == ["c", "a", "b"]


def test_unless_it_is_overloaded() -> None:
    replicas = Replicas(a=1, c=5)
    replicas.table.add((1, 2, 3), "c")  # type: ignore[arg-type]
    assert replicas.order((1, 2, 3), most_ahead=6)[0] == "c"
    assert replicas.order((1, 2, 3), most_ahead=5) == ["b", "a", "c"]


def test_unless_it_knows_less_than_half() -> None:
    replicas = Replicas(c=1)
    replicas.table.add((1, 2), "c")  # type: ignore[arg-type]
    assert replicas.order((1, 2, 8, 9))[0] == "c"
    assert replicas.order((1, 2, 8, 9, 10))[0] == "a"


def test_of_several_that_know_it_the_less_busy() -> None:
    replicas = Replicas(b=2, c=1)
    for name in ("b", "c"):
        replicas.table.add((1, 2), name)  # type: ignore[arg-type]
    assert replicas.order((1, 2))[:2] == ["c", "b"]


def test_replicas_that_are_gone_are_forgotten() -> None:
    replicas = Replicas(a=1)
    replicas.table.add((1, 2), "gone")  # type: ignore[arg-type]
    replicas.table.add((1, 2), "a")  # type: ignore[arg-type]
    replicas.table.keep_only({"a", "b", "c"})  # type: ignore[arg-type]
    assert replicas.table.longest((1, 2)) == (2, {"a"})
    replicas.table.keep_only(set())
    assert replicas.table.longest((1, 2)) == (0, set())


def test_the_least_recently_used_prompts_are_forgotten() -> None:
    table = PrefixTable(capacity=4)
    table.add((1, 2), "a")  # type: ignore[arg-type]
    table.add((3, 4), "b")  # type: ignore[arg-type]
    table.add((1, 2), "a")  # type: ignore[arg-type]
    table.add((5, 6), "c")  # type: ignore[arg-type]
    assert table.longest((1, 2))[0] == 2
    assert table.longest((3, 4))[0] == 0


@pytest.mark.parametrize("percent", [0, 1, 10, 33, 50, 99, 100])
def test_the_canary_gets_its_share(percent: int) -> None:
    split = TrafficSplit(percent, Random(percent))
    found = Counter(split.next_is_canary() for _ in range(10_000))[True]
    assert found == pytest.approx(100 * percent, abs=200 if 0 < percent < 100 else 0)


@pytest.mark.parametrize("percent", [25, 50])
def test_kinds_of_requests_that_take_turns_are_divided_alike(percent: int) -> None:
    """Chat, title, chat, title: the canary gets its share of each."""
    split = TrafficSplit(percent, Random(1))
    kinds = Counter(number % 2 for number in range(4000) if split.next_is_canary())
    for kind in (0, 1):
        assert kinds[kind] == pytest.approx(20 * percent, abs=120)


@pytest.mark.parametrize("percent", [-1, 101, 0.5, "10"])
def test_a_share_that_is_none(percent: Any) -> None:
    with pytest.raises(ValueError, match="canary_percent must be a whole number from 0 to 100"):
        TrafficSplit(percent)
