"""Vectors and scores of whole sequences, by models that were made for that."""

from __future__ import annotations

from predictor.engine.config import Pooling
from predictor.engine.generator import Generator, Job
from predictor.engine.llama import Model
from predictor.engine.request import Delta, FinishReason


class Pooler(Generator):
    """Ends every sequence with the vector of its prompt, as soon as that is computed."""

    samples = False

    def advance(self, job: Job, index: int) -> None:
        """Pass a sequence's vector on, which ends it."""
        sequence = job.sequence
        vector = self._context.pooled(sequence.sequence_id)
        self._note_token(sequence)
        delta = Delta(
            "", finish_reason=FinishReason.STOP, cached_tokens=sequence.cached_tokens, vector=vector
        )
        self._outbox.put(job.stream, delta)
        self._forget(job, FinishReason.STOP)


def reads_last_token(model: Model, pooling: Pooling) -> bool:
    """Whether only the last token's state counts, so that a prompt may be computed in parts and its
    beginning taken over from another. A causal model's head for scores looks there too."""
    return pooling in (Pooling.LAST, Pooling.RANK) and model.is_causal
