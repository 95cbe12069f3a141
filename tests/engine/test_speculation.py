"""How many tokens are guessed, and that guessing changes no text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Guesses as much as it may."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
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


def speculator(fixed: float, per_token: float, most: int = 4) -> Speculator:
    cost = StepCost()
    for step in range(200):
        tokens = 1 + step % 5
        cost.observe(decode_tokens=tokens, prompt_tokens=0, seconds=fixed + per_token * tokens)
    return Speculator(Parrot(), cost, most, 1000)


def test_much_is_guessed_where_a_token_more_costs_little() -> None:
    one = sequence([1, 2, 3])
    assert speculator(0.05, 0.001).propose([one], 100) == {one: [1, 1, 1, 1]}


def test_guessing_stops_where_it_is_slower_and_is_tried_again_later() -> None:
    subject, one = speculator(0.001, 0.01), sequence([1, 2, 3])
    for _ in range(20):
        subject.judge(one, 1, 0)
    drafts = [subject.propose([one], 100) for _ in range(2 * PROBE_STEPS)]
    assert [draft for draft in drafts if draft] == [{one: [1]}] * 2


def test_wrong_guesses_lower_their_number() -> None:
    subject, one = speculator(0.05, 0.01), sequence([1, 2, 3])
    before = len(subject.propose([one], 100)[one])
    for _ in range(5):
        subject.judge(one, 4, 1)
    assert len(subject.propose([one], 100).get(one, [])) < before
    assert (subject.drafted_tokens, subject.accepted_tokens) == (20, 5)


def test_guesses_stay_within_the_room_the_limit_and_the_answer() -> None:
    subject = speculator(0.05, 0.001)
    first, second, ending = sequence([1, 2]), sequence([3, 4]), sequence([5, 6], max_tokens=2)
    drafts = subject.propose([first, second, ending], 6)
    assert {one.tokens[0]: len(tokens) for one, tokens in drafts.items()} == {1: 4, 3: 2}
    assert len(subject.propose([ending], 100)[ending]) == 1
    assert subject.propose([sequence([1] * 999)], 100) == {}


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
