"""`echo` with `logprobs`: what a model thinks of a text that it is given.

That the numbers are right is tested on random engines in tests/engine; here it is that programs which score
texts find them where they look.
"""

from __future__ import annotations

from typing import Any

import openai
import pytest
from server_process import Server

TEXT = "The capital of France is Paris, and the capital of Italy is Rome."


@pytest.fixture(scope="module")
def score(client: openai.OpenAI, server: Server) -> Any:
    def score(prompt: Any = TEXT, **fields: Any) -> Any:
        fields = {"max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, **fields}
        return client.completions.create(model=server.model_name, prompt=prompt, **fields)

    return score


def test_the_prompts_tokens_come_with_their_logprobs(score: Any) -> None:
    answer = score(max_tokens=0)
    choice, logprobs = answer.choices[0], answer.choices[0].logprobs
    assert choice.text == "".join(logprobs.tokens) == TEXT
    assert answer.usage.prompt_tokens == len(logprobs.tokens) == len(logprobs.token_logprobs)
    assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    assert max(logprobs.token_logprobs[1:]) > -0.5  # Rome
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert TEXT[offset : offset + len(token)] == token


def test_a_cached_prompt_is_scored_all_the_same(score: Any) -> None:
    first, second = (score().choices[0].logprobs for _ in range(2))
    assert second.token_logprobs[1:] == pytest.approx(first.token_logprobs[1:], abs=0.2)


def test_texts_are_ranked_as_an_evaluation_does(score: Any, client: openai.OpenAI, server: Server) -> None:
    """Contexts with their continuations, as token ids in one call: the one generated token is cut off."""
    answers = [" Paris.", " purple.", " Paris.<|im_end|>"]
    tokenized = [
        client.post("../tokenize", body={"content": f"The capital of France is{end}"}, cast_to=dict)["tokens"]
        for end in answers
    ]
    context = 5
    choices = score(tokenized).choices
    assert [len(choice.logprobs.tokens) for choice in choices] == [len(tokens) + 1 for tokens in tokenized]
    right, wrong, ended = (sum(choice.logprobs.token_logprobs[context:-1]) for choice in choices)
    assert right > wrong + 1
    assert right > ended
    assert choices[2].text.startswith("The capital of France is Paris.<|im_end|>")
    greedy = [
        all(
            value == max(top.values())
            for value, top in zip(
                c.logprobs.token_logprobs[context:-1], c.logprobs.top_logprobs[context:-1], strict=True
            )
        )
        for c in choices
    ]
    assert greedy[1] is False


def test_the_token_that_ends_an_answer_is_counted(score: Any) -> None:
    """Whoever cuts the last token off must not cut one of the prompt."""
    prompt = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
    end = {"2": 1000}  # <|im_end|>
    whole = score(prompt, logit_bias=end)
    assert whole.choices[0].finish_reason == "stop"
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.prompt_tokens + 1


def test_a_stream_has_the_same(score: Any) -> None:
    chunks = list(score(max_tokens=3, stream=True))
    whole = score(max_tokens=3).choices[0]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    for name in ("tokens", "text_offset"):
        parts = [item for c in chunks for item in getattr(c.choices[0].logprobs, name)]
        assert parts == getattr(whole.logprobs, name)
    values = [item for chunk in chunks for item in chunk.choices[0].logprobs.token_logprobs]
    assert values[0] is None
    assert values[1:] == pytest.approx(whole.logprobs.token_logprobs[1:], abs=0.2)


def test_a_token_that_there_isnt(score: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
        score([1, 10**6])
