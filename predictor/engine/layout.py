"""How the KV cache is laid out for a model and a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

from predictor.engine.config import EngineConfig, fits_slots, kv_cache_tokens
from predictor.engine.draft_model import DraftModel, load_draft_model
from predictor.engine.kv_cache import KVCache
from predictor.engine.llama import AbortFlag, ContextParams, Model
from predictor.engine.ngram_drafter import NgramDrafter
from predictor.engine.pooler import reads_last_token
from predictor.engine.prefix_cache import PrefixCache
from predictor.engine.slot_cache import SlotCache
from predictor.engine.speculation import Drafter, Speculator
from predictor.engine.step_cost import StepCost
from predictor.errors import ModelLoadError

# Ids beyond the running sequences hold finished ones for their prefixes; llama.cpp allows 256 in all.
RETAINED_SEQUENCES = 64
# Cells that only wait for a later request slow every decode down, so beyond these they move to memory.
RETAINED_CELLS = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes that follow from a model and a configuration.

    Attributes:
        max_sequence_tokens: longest a sequence may get.
        params: of the context.
        reusable: whether a sequence can take cells of another over.
        whole_prompts: whether every prompt must be computed in one step.
    """

    max_sequence_tokens: int
    params: ContextParams
    reusable: bool
    whole_prompts: bool


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
    reusable = model.can_cut_prefix and not whole_prompts
    # Models that can't share cells have no use for slots' copies either.
    slots = (
        reusable
        and config.pooling is None
        and fits_slots(context_tokens, sequence_tokens=longest, sequences=config.max_sequences)
    )
    guesses = config.draft_tokens if config.draft_ngrams or config.draft_model else 0
    sequences = config.max_sequences + (RETAINED_SEQUENCES if reusable and not slots else 0)
    params = ContextParams(
        context_tokens=context_tokens,
        outputs=sequences + config.max_sequences * guesses,
        batch_tokens=config.max_batch_tokens,
        sequences=sequences,
        shared_cells=not slots,
        threads=config.threads,
        batch_threads=config.batch_threads,
        flash_attention=config.flash_attention,
        cache_type=config.cache_type,
        pooling=config.pooling,
    )
    return Layout(longest, params, reusable, whole_prompts)


def make_kv_cache(config: EngineConfig, layout: Layout) -> KVCache:
    """The bookkeeping for a layout."""
    save = config.host_cache_bytes > 0
    params = layout.params
    if not params.shared_cells:
        return SlotCache(
            config.max_sequences, layout.max_sequence_tokens, save=save, adapters=tuple(config.adapters)
        )
    return PrefixCache(
        params.context_tokens,
        params.sequences,
        reuse=layout.reusable,
        max_retained=RETAINED_CELLS,
        save=save,
    )


def make_speculator(
    model: Model, config: EngineConfig, layout: Layout, cost: StepCost, abort: AbortFlag
) -> Speculator | None:
    """What guesses tokens; None where nothing is to.

    Raises:
        ModelLoadError: the draft model doesn't fit the model, or the model can't take tokens back.
    """
    drafter: Drafter
    if config.pooling is not None:
        return None
    if config.draft_model is not None:
        draft = load_draft_model(config.draft_model, model, gpu_layers=config.gpu_layers)
        # Whatever adapter a sequence has, the draft is computed without, so all may share cells.
        cells_of = replace(config, host_cache_bytes=0, adapters={})
        drafter = DraftModel(
            draft, replace(layout.params, outputs=0), lambda: make_kv_cache(cells_of, layout), abort
        )
    elif config.draft_ngrams:
        drafter = NgramDrafter()
    else:
        return None
    if not model.can_cut_prefix:
        drafter.close()
        raise ModelLoadError(
            f"{config.model_path} can't take guessed tokens back: serve it without speculative decoding"
        )
    return Speculator(drafter, cost, config.draft_tokens, layout.max_sequence_tokens)
