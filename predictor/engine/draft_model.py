"""Guesses of a small model with the same vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from predictor.engine.llama import Batch, Context, ContextParams, KVCacheFullError, Model
from predictor.engine.radix_tree import common_prefix
from predictor.engine.sequence import Sequence
from predictor.errors import ModelLoadError


def load_draft_model(path: Path, target: Model, *, gpu_layers: int) -> Model:
    """Load a draft model.

    Raises:
        ModelLoadError: it can't be loaded, can't generate, or its tokens aren't the target's.
    """
    model = Model(path, gpu_layers=gpu_layers)
    reason = None
    if not (model.can_generate and model.can_cut_prefix):
        reason = "it can't generate text token by token and take tokens back"
    elif model.n_vocab != target.n_vocab:
        reason = f"it has {model.n_vocab} tokens, and the model {target.n_vocab}"
    elif any(model.piece(token) != target.piece(token) for token in range(model.n_vocab)):
        reason = "its tokens stand for other text"
    if reason:
        model.close()
        raise ModelLoadError(f"{path} can't draft for {target.path}: {reason}")
    return model


class DraftModel:
    """Runs the small model a few tokens ahead of each sequence, greedily.

    Its cells follow llama.cpp's ids of the target's sequences; whatever it computed for the one that had an
    id before is taken back first.

    Args:
        model: see `load_draft_model`; closed with the drafter.
        params: `sequences` ids, of which each may get as long as the target's.
    """

    def __init__(self, model: Model, params: ContextParams) -> None:
        self._model = model
        self._context = Context(model, params)
        self._batch = Batch(params.batch_tokens)
        self._computed: dict[int, list[int]] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See `Drafter`; all sequences advance together."""
        drafts: dict[Sequence, list[int]] = {sequence: [] for sequence in wanted}
        try:
            for sequence in wanted:
                self._catch_up(sequence)
            for number in range(max(wanted.values(), default=0)):
                self._draft([s for s, count in wanted.items() if number < count], drafts)
        except KVCacheFullError:
            # The cells of others may be old; without them there is room again for the next step.
            self._forget(set(self._computed) - {sequence.sequence_id for sequence in wanted})
        return {sequence: tokens for sequence, tokens in drafts.items() if tokens}

    def close(self) -> None:
        """Free the model and its cells."""
        self._context.close()
        self._model.close()

    def _catch_up(self, sequence: Sequence) -> None:
        """Compute all but a sequence's last token."""
        tokens, sequence_id = sequence.tokens, sequence.sequence_id
        done = self._computed.setdefault(sequence_id, [])
        kept = common_prefix(done, tokens[:-1])
        if kept < len(done):
            self._context.remove(sequence_id, kept)
            del done[kept:]
        while len(done) < len(tokens) - 1:
            part = tokens[len(done) : min(len(done) + self._batch.capacity, len(tokens) - 1)]
            self._batch.clear()
            self._batch.add(part, len(done), sequence_id, logits=False)
            self._context.decode(self._batch)
            done.extend(part)

    def _draft(self, sequences: list[Sequence], drafts: dict[Sequence, list[int]]) -> None:
        """One more token for each sequence."""
        self._batch.clear()
        newest = {s: drafts[s][-1] if drafts[s] else s.tokens[-1] for s in sequences}
        for sequence, token in newest.items():
            done = self._computed[sequence.sequence_id]
            self._batch.add([token], len(done), sequence.sequence_id, logits=True)
        self._context.decode(self._batch)
        for index, (sequence, token) in enumerate(newest.items()):
            self._computed[sequence.sequence_id].append(token)
            drafts[sequence].append(int(self._context.logits(index).argmax()))

    def _forget(self, sequence_ids: Iterable[int]) -> None:
        for sequence_id in sequence_ids:
            self._context.remove(sequence_id)
            del self._computed[sequence_id]
