"""The engine on the real model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from near_ties import agree

from predictor.engine import sequence
from predictor.engine.engine import Engine
from predictor.engine.layout import RETAINED_CELLS
from predictor.engine.prefix_store import PrefixStore
from predictor.engine.request import FinishReason, Request, SamplingParams
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import EngineFailure, InvalidRequest, NotReady, PromptTooLong, QueueFull
from predictor.generation.text import Completion, TextGenerator, collect
from predictor.structured.grammar import gbnf_grammar

MakeEngine = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=24)
SYSTEM = "You are a helpful assistant who answers in one short sentence. " * 10
CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid"}


def chat(engine: Engine, text: str) -> tuple[int, ...]:
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return tuple(engine.tokenize(rendered, add_special=False, parse_special=True))


def ask(engine: Engine, text: str, params: SamplingParams = GREEDY) -> Request:
    return Request("test", chat(engine, text), params)


def ask_under_system_prompt(engine: Engine, text: str) -> Request:
    """A question under a system prompt that is worth saving."""
    turns = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"
    rendered = f"{turns}<|im_start|>assistant\n"
    return Request("test", tuple(engine.tokenize(rendered, add_special=False, parse_special=True)), GREEDY)


async def complete(engine: Engine, *requests: Request) -> list[Completion]:
    streams = engine.submit_all(requests)
    return list(
        await asyncio.gather(*(collect(s, len(r.prompt)) for s, r in zip(streams, requests, strict=True)))
    )


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_chat_question_is_answered_and_ends_by_itself(engine: Engine) -> None:
    [answer] = await complete(engine, ask(engine, "What is the capital of France?"))
    assert "Paris" in answer.text
    assert answer.finish_reason is FinishReason.STOP
    assert answer.completion_tokens > 0


async def test_eight_at_once_each_get_their_own_answer(engine: Engine) -> None:
    countries = [*CAPITALS, *CAPITALS]
    answers = await complete(engine, *(ask(engine, f"What is the capital of {c}?") for c in countries))
    for country, answer in zip(countries, answers, strict=True):
        assert CAPITALS[country] in answer.text


async def test_greedy_text_changes_in_a_batch_of_eight_only_at_near_ties(engine: Engine) -> None:
    """llama.cpp adds in another order in larger batches; where that tips a choice, both were about equal."""
    params = SamplingParams(temperature=0, max_tokens=24, top_logprobs=20)
    things = ["sky", "grass", "snow", "coal", "blood", "sun", "sea", "sand"]
    requests = [ask(engine, f"Name the colour of {thing}.", params) for thing in things]
    alone = [(await complete(engine, request))[0] for request in requests]
    together = await complete(engine, *requests)
    for one, other in zip(alone, together, strict=True):
        assert agree(one, other)


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(make_engine: MakeEngine) -> None:
    engine = make_engine()

    def story(seed: int) -> Request:
        return ask(engine, "Tell me a story.", SamplingParams(seed=seed, temperature=1.5, max_tokens=24))

    first, again, other = [(await complete(engine, story(seed)))[0].text for seed in (5, 5, 6)]
    assert first == again != other


async def test_max_tokens_ends_with_length(engine: Engine) -> None:
    params = SamplingParams(max_tokens=5, ignore_eos=True, temperature=0)
    [answer] = await complete(engine, ask(engine, "Count to a hundred.", params))
    assert (answer.finish_reason, answer.completion_tokens) == (FinishReason.LENGTH, 5)


async def test_a_stop_string_ends_the_text_before_itself(engine: Engine) -> None:
    [whole] = await complete(engine, ask(engine, "What is the capital of France?"))
    params = SamplingParams(temperature=0, max_tokens=24, stop=("Paris",))
    [cut] = await complete(engine, ask(engine, "What is the capital of France?", params))
    assert cut.text == whole.text[: whole.text.index("Paris")]
    assert cut.finish_reason is FinishReason.STOP


async def test_ignore_eos_goes_on_to_the_limit(engine: Engine) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    [answer] = await complete(engine, ask(engine, "What is the capital of France?", params))
    assert (answer.finish_reason, answer.completion_tokens) == (FinishReason.LENGTH, 60)


async def test_a_logit_bias_forces_and_forbids_tokens(engine: Engine) -> None:
    [token] = engine.tokenize(" banana", add_special=False, parse_special=False)[:1]
    forced = SamplingParams(temperature=0, max_tokens=3, logit_bias={token: 100.0})
    [answer] = await complete(engine, ask(engine, "Say something.", forced))
    assert answer.text == engine.model.piece(token).decode() * 3
    paris = engine.tokenize(" Paris", add_special=False, parse_special=False)[0]
    forbidden = SamplingParams(temperature=0, max_tokens=24, logit_bias={paris: -100.0})
    [answer] = await complete(engine, ask(engine, "What is the capital of France?", forbidden))
    assert "Paris" not in answer.text


async def test_a_bias_and_a_penalty_run_in_the_native_chain_too(engine: Engine) -> None:
    [token] = engine.tokenize(" banana", add_special=False, parse_special=False)[:1]
    params = SamplingParams(temperature=0, max_tokens=3, logit_bias={token: 100.0}, repeat_penalty=1.1)
    [answer] = await complete(engine, ask(engine, "Say something.", params))
    assert answer.text.startswith(engine.model.piece(token).decode())


async def test_a_frequency_penalty_breaks_repetition(engine: Engine) -> None:
    def repeat(penalty: float) -> Request:
        prompt = tuple(engine.tokenize("ha ha ha ha ha ha", add_special=True, parse_special=False))
        params = SamplingParams(temperature=0, max_tokens=40, frequency_penalty=penalty, ignore_eos=True)
        return Request("test", prompt, params)

    plain, penalised = await complete(engine, repeat(0), repeat(2))
    assert penalised.text.count("ha") < plain.text.count("ha")


async def test_logprobs_are_a_distribution_and_name_the_greedy_choice(engine: Engine) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, top_logprobs=5)
    [answer] = await complete(engine, ask(engine, "What is the capital of France?", params))
    assert len(answer.logprobs) == answer.completion_tokens == 4
    for entry in answer.logprobs:
        values = [top.logprob for top in entry.top]
        assert entry.top[0].token == entry.token
        assert values == sorted(values, reverse=True)
        assert entry.logprob <= 0
        assert len(values) == 5
    assert "".join(entry.piece.decode() for entry in answer.logprobs) == answer.text


async def test_emoji_never_come_in_pieces(engine: Engine) -> None:
    tokens = engine.tokenize("😀", add_special=False, parse_special=False)
    assert len(tokens) > 1
    prompt = tuple(engine.tokenize("😀😀😀😀😀😀😀😀", add_special=True, parse_special=False))
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    [stream] = engine.submit_all([Request("test", prompt, params)])
    texts = [delta.text async for delta in stream]
    assert "😀" in "".join(texts)
    assert all("\ufffd" not in text for text in texts)


async def test_a_shared_beginning_is_computed_once_for_all(make_engine: MakeEngine) -> None:
    engine = make_engine()
    system = "You are a helpful assistant. " * 30
    before = engine.stats().prompt_tokens
    requests = [ask(engine, f"{system} What is {n}?", SamplingParams(max_tokens=2)) for n in range(6)]
    answers = await complete(engine, *requests)
    computed = engine.stats().prompt_tokens - before
    assert computed < len(requests[0].prompt) + 6 * 20
    assert [answer.cached_tokens > 150 for answer in answers] == [False] + [True] * 5


async def test_cached_and_computed_prefixes_give_the_same_text(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=2)
    question = "Explain in one sentence what the capital of France is famous for."
    [first] = await complete(engine, ask(engine, question))
    [second] = await complete(engine, ask(engine, question))
    assert (first.cached_tokens, second.cached_tokens) == (0, len(chat(engine, question)) - 1)
    assert first.text == second.text


async def test_a_prefix_that_lost_its_cells_comes_back_from_memory(make_engine: MakeEngine) -> None:
    engine = make_engine(context_tokens=512, max_sequences=2)
    story = "Once upon a time there was a king who had three daughters. " * 8
    question = f"{story} How many daughters did the king have?"
    params = SamplingParams(temperature=0, max_tokens=24, top_logprobs=20, ignore_eos=True)
    [first] = await complete(engine, ask(engine, question, params))
    await complete(engine, Request("other", tuple(range(1000, 1500)), SamplingParams(max_tokens=1)))
    assert engine.stats().host_cache_bytes > 0
    before = engine.stats().prompt_tokens
    [again] = await complete(engine, ask(engine, question, params))
    assert again.cached_tokens >= len(chat(engine, question)) - 1
    assert engine.stats().prompt_tokens - before <= 2
    assert agree(again, first)
    assert "three" in again.text.lower()


async def test_a_prefix_evicted_as_its_last_sequence_ends_is_there_for_the_next(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    prompt = tuple(range(1000, 1000 + RETAINED_CELLS + 100))
    one_token = SamplingParams(temperature=0.0, max_tokens=1)
    await complete(engine, Request("first", prompt, one_token))
    [again] = await complete(engine, Request("again", (*prompt, 5), one_token))
    assert again.cached_tokens == len(prompt)


async def test_one_system_prompt_is_saved_once_however_many_ask_under_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    story = "Once upon a time there was a king who had three daughters. " * 25
    for number in range(4):
        await complete(engine, ask(engine, f"{story} What is {number}?", SamplingParams(max_tokens=2)))
    await complete(engine, Request("other", tuple(range(1000, 1100)), SamplingParams(max_tokens=1)))
    assert len(list(engine._loop._scheduler.host)) == 1


async def test_slots_compute_what_one_pool_of_cells_does(make_engine: MakeEngine, engine: Engine) -> None:
    """Together, with a beginning copied from slot to slot, and again from what the slots still hold."""
    slots = make_engine(max_sequences=4, max_sequence_tokens=512)
    assert slots.context_tokens == 4 * 512
    params = SamplingParams(temperature=0, max_tokens=1, top_logprobs=5)
    asked = [
        replace(ask_under_system_prompt(slots, f"What is the capital of {country}?"), params=params)
        for country in CAPITALS
    ]
    wanted = [(await complete(engine, request))[0] for request in asked]
    together = await complete(slots, *asked)
    assert [answer.cached_tokens > 100 for answer in together] == [False, True, True, True]
    again = list(reversed(await complete(slots, *reversed(asked))))
    assert all(answer.cached_tokens > 100 for answer in again)
    for answers in (together, again):
        for answer, expected in zip(answers, wanted, strict=True):
            # Wrong cells change the two likeliest beyond all rounding.
            here = first_choices(answer, 5)
            for token, likelihood in first_choices(expected, 2).items():
                assert here.get(token) == pytest.approx(likelihood, abs=0.5)


def first_choices(answer: Completion, count: int) -> dict[int, float]:
    """Log-probabilities of the likeliest first tokens."""
    [first] = answer.logprobs
    return {choice.token: choice.logprob for choice in first.top[:count]}


async def test_a_taken_slot_comes_back_from_memory(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=1, max_sequence_tokens=512)
    question = ask_under_system_prompt(engine, "What is the capital of France?")
    await complete(engine, question)
    await complete(engine, Request("other", tuple(range(1000, 1500)), SamplingParams(max_tokens=1)))
    before = engine.stats().prompt_tokens
    [again] = await complete(engine, question)
    assert engine.stats().prompt_tokens - before <= 2
    assert "Paris" in again.text


async def test_no_sequence_gets_longer_than_it_may(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=2, max_sequence_tokens=128)
    with pytest.raises(PromptTooLong, match="128"):
        engine.submit_all([Request("long", tuple(range(1000, 1128)), GREEDY)])
    params = SamplingParams(ignore_eos=True)
    answers = await complete(
        engine, *[Request(str(n), tuple(range(n, n + 100)), params) for n in (900, 1900)]
    )
    assert [(answer.completion_tokens, answer.finish_reason) for answer in answers] == [
        (28, FinishReason.LENGTH)
    ] * 2


async def test_a_damaged_saved_state_is_computed_again(make_engine: MakeEngine) -> None:
    engine = make_engine(context_tokens=512, max_sequences=2)
    story = "Once upon a time there was a king who had three daughters. " * 8
    question = f"{story} How many daughters did the king have?"
    await complete(engine, ask(engine, question))
    await complete(engine, Request("other", tuple(range(1000, 1500)), SamplingParams(max_tokens=1)))
    for saved in engine._loop._scheduler.host:
        saved.state[:] = 0
    [again] = await complete(engine, ask(engine, question))
    assert again.cached_tokens == 0
    assert "three" in again.text.lower()
    assert engine.stats().running == 0


async def test_all_who_share_a_damaged_saved_prefix_are_answered(make_engine: MakeEngine) -> None:
    """They are admitted in one step, the later ones counting on the cells that the first seemed to get."""
    engine = make_engine(context_tokens=1024, max_step_seconds=60.0)
    story = "Once upon a time there was a king who had three daughters. " * 8
    questions = [f"{story} What is {number}?" for number in range(4)]
    await complete(engine, ask(engine, f"{story} Go on.", SamplingParams(max_tokens=2)))
    await complete(engine, Request("other", tuple(range(1000, 2000)), SamplingParams(max_tokens=1)))
    [saved] = [s for s in engine._loop._scheduler.host if s.tokens[0] != 1000]
    saved.state[:] = 0
    before = engine.stats()
    answers = await complete(engine, *(ask(engine, question) for question in questions))
    after = engine.stats()
    assert all(answer.completion_tokens > 0 for answer in answers)
    # The story was computed again, and once.
    assert len(saved.tokens) < after.prompt_tokens - before.prompt_tokens < 2 * len(saved.tokens)
    # No short step is made of it, which the others wouldn't wait for.
    least = len(saved.tokens) // 2
    assert [answer.cached_tokens > least for answer in answers] == [False, True, True, True]


async def test_a_restarted_engine_takes_prefixes_from_disk(make_engine: MakeEngine, tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, "demo", 2**30)
    question = "Once upon a time there was a king who had three daughters. " * 8
    first_engine = make_engine(prefix_store=store)
    [first] = await complete(first_engine, ask(first_engine, question))
    first_engine.close()
    engine = make_engine(prefix_store=store)
    [again] = await complete(engine, ask(engine, question))
    assert again.cached_tokens == len(chat(engine, question)) - 1
    assert engine.stats().prompt_tokens <= 2
    assert again.text[:20] == first.text[:20]


async def test_cancelling_frees_the_sequence_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    params = SamplingParams(max_tokens=4000, ignore_eos=True)
    [stream] = engine.submit_all([ask(engine, "Count.", params)])
    async for _ in stream:
        break
    steps = engine.stats().steps
    stream.cancel()
    deltas = [delta async for delta in stream]
    assert deltas[-1].finish_reason is FinishReason.CANCELLED
    assert engine.stats().running == 0
    assert engine.stats().steps - steps <= 2


async def test_cancelling_works_in_the_middle_of_a_prefill(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_tokens=32)
    prompt = tuple(range(100, 100 + 4000))
    [stream] = engine.submit_all([Request("test", prompt, GREEDY)])
    await until(lambda: engine.stats().steps >= 2)
    stream.cancel()
    deltas = [delta async for delta in stream]
    assert deltas[-1].finish_reason is FinishReason.CANCELLED
    assert engine.stats().prompt_tokens < 2000


async def test_a_cancelled_waiting_request_never_runs(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=1)
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    first, second = engine.submit_all([ask(engine, "Count.", params), ask(engine, "Sing.", params)])
    second.cancel()
    assert [delta.finish_reason async for delta in second] == [FinishReason.CANCELLED]
    assert (await collect(first, 1)).completion_tokens == 30


async def test_requests_that_together_overfill_the_cache_all_finish(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "EXPECTED_OUTPUT_TOKENS", 16)
    engine = make_engine(context_tokens=256, max_sequences=4)
    params = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True)
    requests = [ask(engine, f"Tell me a long story about {x}.", params) for x in ("a", "b", "c")]
    answers = await complete(engine, *requests)
    assert [answer.completion_tokens for answer in answers] == [150] * 3
    assert engine.stats().preemptions > 0


async def test_an_answer_ends_when_the_context_is_full(make_engine: MakeEngine) -> None:
    engine = make_engine(context_tokens=256)
    request = ask(engine, "Count.", SamplingParams(ignore_eos=True))
    [answer] = await complete(engine, request)
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.prompt_tokens + answer.completion_tokens == 256


async def test_bad_requests_are_refused_and_others_lose_nothing(engine: Engine) -> None:
    [stream] = engine.submit_all([ask(engine, "What is the capital of France?")])
    with pytest.raises(InvalidRequest, match="no tokens"):
        engine.submit_all([Request("test", (), GREEDY)])
    with pytest.raises(PromptTooLong, match="8192"):
        engine.submit_all([Request("test", (5,) * 8192, GREEDY)])
    with pytest.raises(InvalidRequest, match="vocabulary"):
        engine.submit_all([Request("test", (10**6,), GREEDY)])
    with pytest.raises(InvalidRequest, match="logit_bias"):
        engine.submit_all([Request("test", (5,), SamplingParams(logit_bias={10**6: 1.0}))])
    assert "Paris" in (await collect(stream, 1)).text
    assert engine.stats().running == 0


async def test_the_queue_is_bounded(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=1, max_queue=1)
    params = SamplingParams(max_tokens=50, ignore_eos=True)
    streams = engine.submit_all([ask(engine, "Count.", params), ask(engine, "Sing.", params)])
    with pytest.raises(QueueFull) as caught:
        engine.submit_all([ask(engine, "Wait.", params)])
    assert caught.value.retry_after >= 1
    with pytest.raises(InvalidRequest, match="split"):
        engine.submit_all([ask(engine, "Wait.", params)] * 3)
    for stream in streams:
        await collect(stream, 1)
    assert (await complete(engine, ask(engine, "What is the capital of France?")))[0].text


async def test_draining_refuses_new_requests_and_finishes_the_running(make_engine: MakeEngine) -> None:
    engine = make_engine()
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    [stream] = engine.submit_all([ask(engine, "Count.", params)])
    drained = asyncio.create_task(engine.drain(20))
    await asyncio.sleep(0)
    with pytest.raises(NotReady):
        engine.submit_all([ask(engine, "More.", params)])
    assert (await collect(stream, 1)).completion_tokens == 30
    assert await drained


async def test_a_failing_decode_thread_ends_every_stream_and_says_so(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_sequences=1)
    params = SamplingParams(max_tokens=4000, ignore_eos=True)
    running, waiting = engine.submit_all([ask(engine, "Count.", params), ask(engine, "Sing.", params)])
    async for _ in running:
        break

    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(engine._loop, "step", broken)
    for stream in (running, waiting):
        with pytest.raises(EngineFailure, match="boom"):
            async for _ in stream:
                pass
    assert engine.failure is not None
    with pytest.raises(NotReady):
        engine.submit_all([ask(engine, "More.", params)])


async def test_closing_waits_for_a_grammar_that_is_being_compiled(make_engine: MakeEngine) -> None:
    """llguidance tokenizes with the model's vocabulary, at an address that is freed with the model."""
    engine = make_engine()
    generator = TextGenerator("test", engine, None)
    reading, go_on = threading.Event(), threading.Event()

    def slowly() -> Vocabulary:
        reading.set()
        assert go_on.wait(60)
        return engine.vocabulary()

    generator.constraints._read_vocabulary = slowly
    grammar = gbnf_grammar('root ::= "yes" | "no"', "grammar")
    compiling = asyncio.create_task(generator.constraints.whole(grammar))
    await asyncio.to_thread(reading.wait, 60)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await until(lambda: not engine._thread.is_alive())
    await asyncio.sleep(0.1)
    assert engine.model.handle is not None
    go_on.set()
    await compiling
    await closing
    assert engine.model.handle is None
    with pytest.raises(NotReady):
        await generator.constraints.whole(grammar)


async def test_closing_ends_what_runs_with_an_error(make_engine: MakeEngine) -> None:
    engine = make_engine()
    [stream] = engine.submit_all([ask(engine, "Count.", SamplingParams(max_tokens=4000, ignore_eos=True))])
    async for _ in stream:
        break
    assert not await engine.drain(0.1)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 2
    with pytest.raises(NotReady, match="shut down"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-38, 1e-6])
async def test_a_temperature_too_small_to_divide_by_is_greedy(engine: Engine, temperature: float) -> None:
    tiny = replace(GREEDY, temperature=temperature, seed=1)
    _, plain, cold = [(await complete(engine, ask(engine, "Sing.", p)))[0] for p in (GREEDY, GREEDY, tiny)]
    assert cold.text == plain.text


async def test_no_tokens_only_read_the_prompt(engine: Engine) -> None:
    request = ask(engine, "What do elephants eat in the morning?", SamplingParams(max_tokens=0))
    first, second = [(await complete(engine, request))[0] for _ in range(2)]
    assert (first.text, first.completion_tokens, first.finish_reason) == ("", 0, FinishReason.LENGTH)
    assert second.cached_tokens == len(request.prompt) - 1


async def test_every_sampler_of_the_chain_runs(engine: Engine) -> None:
    hot = SamplingParams(temperature=1.5, max_tokens=16)
    changed = {
        "top_n_sigma": replace(hot, top_n_sigma=0.1),
        "xtc": replace(hot, xtc_probability=1.0, xtc_threshold=0.01),
        "dynatemp": replace(hot, dynatemp_range=1.5),
        "penalty": replace(hot, repeat_penalty=2.0),
        "dry": replace(hot, dry_multiplier=100.0, dry_allowed_length=0, dry_penalty_last_n=-1),
        "mirostat": replace(hot, mirostat=1, mirostat_tau=0.1),
        "mirostat 2": replace(hot, mirostat=2, mirostat_tau=0.1),
        "penalty of no tokens": replace(hot, repeat_penalty=2.0, repeat_last_n=0),
    }

    async def texts(params: SamplingParams) -> list[str]:
        """One by one, so that all are computed alike."""
        seeded = [replace(params, seed=seed) for seed in (1, 2, 3)]
        return [(await complete(engine, ask(engine, "Sing.", params)))[0].text for params in seeded]

    await texts(hot)  # From here on the prompt is cached.
    plain = await texts(hot)
    same = {name for name, params in changed.items() if await texts(params) == plain}
    for _ in range(4):  # Where cells lie can tip a token now and then.
        if await texts(changed["penalty of no tokens"]) == await texts(hot):
            same.add("penalty of no tokens")
    assert same == {"penalty of no tokens"}
