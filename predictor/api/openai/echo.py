"""The prompt before its completion (`echo`), with its tokens' log-probabilities where they are asked for.

Programs that score texts, such as lm-evaluation-harness, send a text as the prompt and read these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.api.openai.types import CompletionRequest, Prompt
from predictor.generation.text import TextGenerator


@dataclass(frozen=True, slots=True)
class Echo:
    """What stands before a completion.

    Attributes:
        text: of the prompt; "" where no echo is wanted.
        first_piece: bytes of the prompt's first token, which has no log-probability; None where the prompt's
            tokens aren't scored.
    """

    text: str = ""
    first_piece: bytes | None = None


def read_echoes(
    generator: TextGenerator,
    body: CompletionRequest,
    texts: Sequence[Prompt],
    prompts: Sequence[tuple[int, ...]],
) -> list[Echo]:
    """The echo of each choice, prompt by prompt.

    Args:
        generator: knows the tokens.
        body: the request.
        texts: the prompts as they were sent.
        prompts: their tokens.

    Raises:
        InvalidRequest: a token is outside the vocabulary.
    """
    if not body.echo:
        return [Echo()] * len(texts) * body.choices
    echoes = []
    for text, tokens in zip(texts, prompts, strict=True):
        shown = text if isinstance(text, str) else generator.engine.detokenize(tokens, "prompt")
        first = generator.engine.shown_pieces(tokens[:1], "prompt")[0] if body.scores_prompt else None
        echoes += [Echo(shown, first)] * body.choices
    return echoes
