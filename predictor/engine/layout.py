"""How the KV cache is laid out for a model and a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

from predictor.engine.config import EngineConfig, fits_slots, kv_cache_tokens
from predictor.engine.draft_model import DraftModel, load_draft_model
from predictor.engine.kv_cache import KVCache
from predictor.engine.llama import AbortFlag, ContextParams, Model
from predictor.engine.ngram_drafter import NgramDrafter
from predictor.engine.past import Past
from predictor.engine.pooler import reads_last_token
from predictor.engine.prefix_cache import PrefixCache
from predictor.engine.slot_cache import Cuts, SlotCache
from predictor.engine.speculation import Drafter, Speculator
from predictor.engine.step_cost import StepCost

# Ids beyond the running sequences hold finished ones for their prefixes; llama.cpp allows 256 in all.
RETAINED_SEQUENCES = 64
# Cells that only wait for a later request slow every decode down, so beyond these they move to memory, where
# there is any for them.
RETAINED_CELLS = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes that follow from a model and a configuration.

    Attributes:
        max_sequence_tokens: longest a sequence may get.
        params: of the context.
        reusable: whether a sequence can take cells of another over.
        whole_prompts: whether every prompt must be computed in one step.
        past: where the model's sequences can be cut.
    """

    max_sequence_tokens: int
    params: ContextParams
    reusable: bool
    whole_prompts: bool
    past: Past = Past.ALL


def plan_layout(model: Model, config: EngineConfig) -> Layout:
    """Slots where every sequence may have its full length, one pool of cells otherwise."""
    context_tokens = kv_cache_tokens(
        config.context_tokens,
        sequence_tokens=config.max_sequence_tokens,
        sequences=config.max_sequences,
        trained_context=model.trained_context,
    )
    longest = min(config.max_sequence_tokens or context_tokens, context_tokens)
    whole_prompts = config.pooling is not None and not reads_last_token(model, config.pooling)
    reusable = not whole_prompts and (model.past is Past.ALL or (model.can_resume and config.pooling is None))
    # Where there is no attention there are no cells, only a state for each sequence.
    slots = (
        reusable
        and config.pooling is None
        and (
            model.past is Past.STATE
            or fits_slots(context_tokens, sequence_tokens=longest, sequences=config.max_sequences)
        )
    )
    guesses = config.draft_tokens if config.draft_ngrams or config.draft_model else 0
    retained = RETAINED_SEQUENCES if reusable and not slots and model.past is Past.ALL else 0
    sequences = config.max_sequences + retained
    params = ContextParams(
        context_tokens=context_tokens,
        outputs=sequences + config.max_sequences * guesses,
        batch_tokens=config.max_batch_tokens,
        sequences=sequences,
        full_window=config.full_window,
        shared_cells=not slots,
        # llama.cpp computes what can be taken back in one go with the token before it.
        rollback=min(guesses, config.max_batch_tokens - 2) if model.past.has_state else 0,
        threads=config.threads,
        batch_threads=config.batch_threads,
        flash_attention=config.flash_attention,
        cache_type=config.cache_type,
        pooling=config.pooling,
    )
    return Layout(longest, params, reusable, whole_prompts, model.past)


def make_kv_cache(
    config: EngineConfig, layout: Layout, cuts: Cuts, *, most_retained: int | None = None
) -> KVCache:
    """The bookkeeping for a layout.

    Args:
        config: sizes.
        layout: of the context.
        cuts: where the model's sequences can be cut.
        most_retained: cells of a pool that wait for later requests; None for all that no other needs.
    """
    save = config.host_cache_bytes > 0
    params = layout.params
    if layout.reusable and (not params.shared_cells or layout.past is not Past.ALL):
        return SlotCache(
            config.max_sequences,
            layout.max_sequence_tokens,
            pool=params.context_tokens if params.shared_cells else None,
            save=save,
            adapters=tuple(config.adapters),
            cuts=cuts,
        )
    return PrefixCache(
        params.context_tokens,
        params.sequences,
        reuse=layout.reusable,
        max_retained=most_retained,
        save=save,
    )


def make_speculator(
    model: Model, config: EngineConfig, layout: Layout, cost: StepCost, abort: AbortFlag
) -> Speculator | None:
    """What guesses tokens; None where nothing is to.

    Raises:
        ModelLoadError: the draft model doesn't fit the model.
    """
    drafter: Drafter
    if config.pooling is not None:
        return None
    if config.draft_model is not None:
        draft = load_draft_model(config.draft_model, model, gpu_layers=config.gpu_layers)
        # Whatever adapter a sequence has, the draft is computed without, so all may share cells.
        cells_of = replace(config, host_cache_bytes=0, adapters={})
        drafter = DraftModel(
            draft,
            replace(layout.params, outputs=0, rollback=0),
            lambda: make_kv_cache(cells_of, layout, Cuts(), most_retained=RETAINED_CELLS),
            abort,
        )
    elif config.draft_ngrams:
        drafter = NgramDrafter()
    else:
        return None
    return Speculator(drafter, cost, config.draft_tokens, layout.max_sequence_tokens)
