"""How many tokens are guessed, and that guessing changes no text."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from predictor.engine import layout
from predictor.engine.engine import Engine
from predictor.engine.ngram_drafter import NgramDrafter
from predictor.engine.request import Request, SamplingParams
from predictor.engine.sequence import Sequence
from predictor.engine.speculation import PROBE_STEPS, Speculator
from predictor.engine.step_cost import StepCost
from predictor.errors import ModelLoadError
from predictor.generation.text import Completion, collect

MakeEngine = Callable[..., Engine]


class Parrot:
    """Guesses as much as it may, and takes as long to read what it lacks as it is told."""

    def __init__(self) -> None:
        self.reading: dict[Sequence, float] = {}
        self.prepared: list[float] = []
        self.failing = False

    def prepare(
        self, _sequences: Collection[Sequence], _running: Collection[Sequence], seconds: float
    ) -> None:
        self.prepared.append(seconds)

    def reading_seconds(self, sequence: Sequence) -> float:
        return self.reading.get(sequence, 0.0)

    def forget(self) -> None:
        self.failing = False

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        if self.failing:
            raise RuntimeError("no guesses")
        return {sequence: [1] * count for sequence, count in wanted.items()}

    def close(self) -> None:
        pass


class HalfRight(NgramDrafter):
    """Spoils every second guess."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        drafts = super().propose(wanted)
        return {
            sequence: [token + number % 2 for number, token in enumerate(tokens)]
            for sequence, tokens in drafts.items()
        }


def sequence(prompt: list[int], max_tokens: int = 100) -> Sequence:
    return Sequence(Request("r", tuple(prompt), SamplingParams()), max_tokens)


class Subject(Speculator):
    """A speculator of its own parrot, whose streams wait for nothing."""

    parrot: Parrot

    def guess(self, sequences: list[Sequence], room: int = 100) -> dict[Sequence, list[int]]:
        return self.propose(sequences, room, running=sequences, seconds=1.0)


def speculator(fixed: float, per_token: float, most: int = 4) -> Subject:
    cost = StepCost()
    for step in range(200):
        tokens = 1 + step % 5
        cost.observe(decode_tokens=tokens, prompt_tokens=0, seconds=fixed + per_token * tokens)
    parrot = Parrot()
    subject = Subject(parrot, cost, most, 1000)
    subject.parrot = parrot
    return subject


def test_much_is_guessed_where_a_token_more_costs_little() -> None:
    one = sequence([1, 2, 3])
    assert speculator(0.05, 0.001).guess([one]) == {one: [1, 1, 1, 1]}


def test_guessing_stops_where_it_is_slower_and_is_tried_again_later() -> None:
    subject, one = speculator(0.001, 0.01), sequence([1, 2, 3])
    for _ in range(20):
        subject.judge(one, 1, 0)
    drafts = [subject.guess([one]) for _ in range(2 * PROBE_STEPS)]
    assert [draft for draft in drafts if draft] == [{one: [1]}] * 2


def test_wrong_guesses_lower_their_number() -> None:
    subject, one = speculator(0.05, 0.01), sequence([1, 2, 3])
    before = len(subject.guess([one])[one])
    for _ in range(5):
        subject.judge(one, 4, 1)
    assert len(subject.guess([one]).get(one, [])) < before
    assert (subject.drafted_tokens, subject.accepted_tokens) == (20, 5)


def test_guesses_stay_within_the_room_the_limit_and_the_answer() -> None:
    subject = speculator(0.05, 0.001)
    first, second, ending = sequence([1, 2]), sequence([3, 4]), sequence([5, 6], max_tokens=2)
    drafts = subject.guess([first, second, ending], 6)
    assert {one.tokens[0]: len(tokens) for one, tokens in drafts.items()} == {1: 4, 3: 2}
    assert len(subject.guess([ending])[ending]) == 1
    assert subject.guess([sequence([1] * 999)]) == {}


def test_a_prompt_is_read_for_guesses_only_where_the_answer_is_long_enough() -> None:
    """At 50 ms a token, 100 tokens may save some 3 s, and 10 some 0.3 s."""
    subject = speculator(0.05, 0.001)
    long, short = sequence([1, 2], max_tokens=100), sequence([3, 4], max_tokens=10)
    for seconds, guessed in ((0.1, {1, 3}), (2.0, {1}), (6.0, set())):
        subject.parrot.reading = {long: seconds, short: seconds}
        assert {one.tokens[0] for one in (long, short) if subject.guess([one])} == guessed


def test_a_guess_is_tried_again_for_the_sequence_that_takes_least_to_read() -> None:
    subject, one, other = speculator(0.001, 0.01), sequence([1, 2, 3]), sequence([4])
    for _ in range(20):
        subject.judge(one, 1, 0)
        subject.judge(other, 1, 0)
    subject.parrot.reading = {one: 0.2, other: 0.1}
    drafts = [draft for _ in range(PROBE_STEPS) if (draft := subject.guess([one, other]))]
    assert drafts == [{other: [1]}]
    subject.parrot.reading = {one: 20, other: 10}
    assert not any(subject.guess([one, other]) for _ in range(2 * PROBE_STEPS))


def test_guesses_end_before_the_streams_have_waited_too_long() -> None:
    subject, one = speculator(0.05, 0.001), sequence([1, 2, 3])
    subject._draft_seconds = 0.005
    assert subject.propose([one], 100, running=[one], seconds=0.011) == {one: [1, 1]}
    assert subject.parrot.prepared[-1] == pytest.approx(0.001, abs=1e-3)


def test_a_drafter_that_fails_costs_some_guesses_and_is_tried_again() -> None:
    subject, one = speculator(0.05, 0.001), sequence([1, 2, 3])
    subject.parrot.failing = True
    drafts = [subject.guess([one]) for _ in range(PROBE_STEPS + 2)]
    assert drafts[: PROBE_STEPS + 1] == [{}] * (PROBE_STEPS + 1)
    assert drafts[-1] == {one: [1, 1, 1, 1]}


def test_what_followed_before_is_guessed_again() -> None:
    one = sequence([1, 2, 3, 4, 5, 6, 9, 1, 2, 3])
    drafter = NgramDrafter()
    assert drafter.propose({one: 3}) == {one: [4, 5, 6]}
    one.tokens.extend([4, 5])
    assert drafter.propose({one: 2}) == {one: [6, 9]}
    assert drafter.propose({sequence([1, 2, 3]): 2}) == {}


def test_the_latest_place_counts() -> None:
    one = sequence([1, 2, 7, 1, 2, 8, 1, 2])
    assert NgramDrafter().propose({one: 1}) == {one: [8]}


REPEAT = (
    "<|im_start|>user\nRepeat this word for word: The quick brown fox jumps over the lazy dog while the "
    "small cat sleeps under the old wooden table in the warm kitchen.<|im_end|>\n<|im_start|>assistant\n"
)
TELL = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def guess_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it costs: on a small model and two cores guesses are hardly ever worth their time."""
    monkeypatch.setattr(Speculator, "_count", lambda self, _sequence, _worth: self._max_draft_tokens)
    monkeypatch.setattr(Speculator, "_gain", lambda *_arguments: math.inf)


async def complete(engine: Engine, *texts: str, **options: object) -> list[Completion]:
    params = SamplingParams(**{"temperature": 0, "max_tokens": 40} | options)
    prompts = [tuple(engine.tokenize(text, add_special=False, parse_special=True)) for text in texts]
    streams = engine.submit_all([Request("t", prompt, params) for prompt in prompts])
    return [await collect(s, len(prompt)) for s, prompt in zip(streams, prompts, strict=True)]


@pytest.mark.usefixtures("guess_always")
async def test_guessed_text_is_the_models_own(make_engine: MakeEngine, engine: Engine) -> None:
    """Up to near ties: in larger batches llama.cpp rounds differently."""
    guessing = make_engine(draft_ngrams=True)
    for _ in range(3):
        [answer] = await complete(guessing, REPEAT, top_logprobs=2)
        [expected] = await complete(engine, REPEAT, top_logprobs=2)
        for got, wanted in zip(answer.logprobs, expected.logprobs, strict=False):
            if got.token != wanted.token:
                assert abs(wanted.top[0].logprob - wanted.top[1].logprob) < 0.3
                break
            assert got.logprob == pytest.approx(wanted.logprob, abs=0.3)
    stats = guessing.stats()
    assert 0 < stats.accepted_tokens <= stats.drafted_tokens


@pytest.mark.usefixtures("guess_always")
async def test_wrong_guesses_leave_no_cells_behind(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences that go on after guesses, end on them, or are taken over by a later one."""
    monkeypatch.setattr(layout, "NgramDrafter", HalfRight)
    for options in ({}, {"max_sequence_tokens": 256, "max_sequences": 4}):
        engine = make_engine(draft_ngrams=True, **options)
        for limit in range(1, 12):
            answers = await complete(engine, REPEAT, TELL, REPEAT, max_tokens=limit, ignore_eos=True)
            assert [answer.completion_tokens for answer in answers] == [limit] * 3
        stats = engine.stats()
        assert 0 < stats.accepted_tokens < stats.drafted_tokens
        assert (stats.running, stats.kv_pinned) == (0, 0)


@pytest.mark.usefixtures("guess_always")
async def test_a_stop_string_ends_the_text_among_guesses(make_engine: MakeEngine) -> None:
    engine = make_engine(draft_ngrams=True)
    for _ in range(2):
        [answer] = await complete(engine, REPEAT, stop=("lazy",))
        assert "fox" in answer.text
        assert "lazy" not in answer.text


@pytest.mark.usefixtures("guess_always")
async def test_a_model_drafts_for_itself(make_engine: MakeEngine, model_path: Path) -> None:
    """The best guesser there is: nearly everything holds, also with several sequences at once."""
    engine = make_engine(draft_model=model_path, draft_tokens=3, max_sequences=4)
    plain = make_engine(max_sequences=4)
    answers = await complete(engine, REPEAT, TELL, top_logprobs=2)
    expected = await complete(plain, REPEAT, TELL, top_logprobs=2)
    assert [a.text[:20] for a in answers] == [e.text[:20] for e in expected]
    stats = engine.stats()
    assert stats.drafted_tokens > 5
    assert stats.accepted_tokens > 0.8 * stats.drafted_tokens


def test_a_draft_model_that_is_no_model_is_refused(make_engine: MakeEngine, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match=r"wrong\.gguf"):
        make_engine(draft_model=wrong)
