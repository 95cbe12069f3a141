"""From a chat that a protocol has read to the engine: the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.api.http.engine_requests import engine_requests
from predictor.api.http.not_enforced import not_enforced_header
from predictor.engine.request import Request, SamplingParams
from predictor.generation.chat import ChatAnswer, ChatReader, ChatRequest
from predictor.generation.streams import RequestStream
from predictor.generation.text import TextGenerator


@dataclass(frozen=True, slots=True)
class AskedChat:
    """A chat that is ready to be answered.

    Attributes:
        generator: answers it.
        prompt_tokens: tokens of its prompt.
        requests: the engine's, one for each answer.
        readers: what each answer is read by.
        headers: of the HTTP answer.
    """

    generator: TextGenerator
    prompt_tokens: int
    requests: Sequence[Request]
    readers: Sequence[ChatReader]
    headers: Mapping[str, str]

    def start(self) -> Sequence[RequestStream]:
        """The streams of all answers.

        Raises:
            Unavailable: the queue is full, or the engine isn't ready.
        """
        return self.generator.submit(self.requests)

    async def answers(self) -> list[ChatAnswer]:
        """All answers, once they are whole.

        Raises:
            Unavailable: the queue is full, or the engine isn't ready.
            EngineFailure: llama.cpp failed.
        """
        return await self.generator.complete_chat(self.requests, self.readers)


async def ask_chat(
    generator: TextGenerator,
    chat: ChatRequest,
    params: SamplingParams,
    choices: int = 1,
    *,
    not_enforced: Sequence[str] = (),
    wants_progress: bool = False,
) -> AskedChat:
    """Make a chat ready.

    Args:
        generator: answers it.
        chat: what is asked.
        params: how answers are sampled.
        choices: how many answers there are to be.
        not_enforced: what of the request is known not to be enforced.
        wants_progress: whether the streams tell how far the prompt has been read.

    Raises:
        PredictorError: the request can't be served.
    """
    generator.check_count(choices)
    prepared = await generator.prepare_chat(chat)
    make = prepared.make_constraint
    requests = engine_requests(
        [prepared.tokens], params, choices, make, prepared.marks, wants_progress=wants_progress
    )
    places = [*not_enforced, *(make.not_enforced if make else ())]
    readers = [prepared.reader() for _ in requests]
    return AskedChat(generator, len(prepared.tokens), requests, readers, not_enforced_header(places))
