"""What has to be settled before anything is loaded: the file, its fit into memory, the ports, the sizes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from predictor.access.keys import read_keys
from predictor.cgroup import default_threads, memory_limit
from predictor.engine.config import AdapterConfig, EngineConfig, Pooling, fits_slots, kv_cache_tokens
from predictor.engine.prefix_store import PrefixStore
from predictor.errors import StartupError
from predictor.formats.repacking import gains_from_openblas
from predictor.models.cache_size import CacheShape, cache_bytes
from predictor.models.digest import content_key
from predictor.models.gguf import GgufHeader
from predictor.models.gguf_split import read_parts
from predictor.models.lora import check_adapter, check_names
from predictor.models.memory import MemoryEstimate, check_memory
from predictor.models.storage import resolve_model
from predictor.serving.tls import CertificateFiles
from predictor.settings import Settings, flag

logger = logging.getLogger(__name__)


POOLED_BATCH_TOKENS = 2048
# Slots for all sequences are the default up to so many bytes, and up to this part of the memory limit.
SLOTS_BYTES, SLOTS_PART = 1 << 30, 8
# llama.cpp's `llama_pooling_type`, as GGUF files have it.
_POOLING_TYPES = {1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST, 4: Pooling.RANK}
_NAMED_POOLING = {pooling.value: pooling for pooling in Pooling}


@dataclass(frozen=True, slots=True)
class StartupPlan:
    """A start that can be expected to succeed.

    Attributes:
        name: the model's name in every protocol.
        aliases: further names that requests may use.
        engine: what to load and how.
        chat_template: the Jinja source that replaces the model's own, None to keep that.
        trust_message_tokens: whether control tokens in what users write are read.
        parts: headers of the model, the first part first.
        traces_endpoint: where spans are sent, None for nowhere.
        certificate: for TLS, None for none.
        log_text: whether logs may hold the text of prompts and answers.
        reasoning: what is done with thoughts; see `predictor.chat.format.Reasoning`.
    """

    name: str
    aliases: tuple[str, ...]
    engine: EngineConfig
    chat_template: str | None
    trust_message_tokens: bool
    parts: tuple[GgufHeader, ...]
    traces_endpoint: str | None
    certificate: CertificateFiles | None
    log_text: bool
    reasoning: str


def plan_startup(settings: Settings) -> StartupPlan:
    """Check everything that can be checked without loading the model.

    Raises:
        StartupError: something is wrong; the message says what to do.
    """
    _check_traces(settings)
    if settings.api_key_file is not None:
        read_keys(settings.api_key_file)
    certificate = _certificate(settings)
    path = resolve_model(settings.model, model_file=settings.model_file)
    parts = read_parts(path)
    name, *aliases = settings.model_name or (path.stem,)
    pooling = _pooling(settings, parts)
    settings = _with_slots(settings, parts[0], pooling)
    context_tokens = kv_cache_tokens(
        settings.context_tokens,
        sequence_tokens=settings.max_sequence_tokens,
        sequences=settings.max_sequences,
        trained_context=parts[0].context_length or 0,
    )
    if (settings.max_sequence_tokens or 0) > context_tokens:
        raise StartupError(
            f"{flag('max_sequence_tokens')} is {settings.max_sequence_tokens}, but the KV cache holds "
            f"{context_tokens} tokens: raise {flag('context_tokens')}, or leave it out"
        )
    check_names([name, *aliases], settings.lora or ())
    _check_helpers(settings, parts[0], pooling)
    estimate = _check_memory(settings, parts, context_tokens, pooling)
    logger.info(
        "serving %s (%s, %.0f MiB of weights, %.0f MiB of KV cache for %d tokens) as %r",
        path,
        parts[0].quantisation,
        estimate.weights / 2**20,
        estimate.kv_cache / 2**20,
        context_tokens,
        name,
    )
    template = _read_template(settings.chat_template) if settings.chat_template else None
    config = replace(
        _engine_config(settings, path, context_tokens),
        prefix_store=_prefix_store(settings, [part.path for part in parts], context_tokens),
        host_cache_bytes=_host_cache_bytes(settings, estimate),
        pooling=pooling,
        openblas=settings.openblas
        and settings.n_gpu_layers == 0
        and gains_from_openblas(parts, _is_repacked),
        max_batch_tokens=_batch_tokens(settings, pooling, context_tokens),
    )
    return StartupPlan(
        name,
        tuple(aliases),
        config,
        template,
        settings.trust_message_tokens,
        tuple(parts),
        settings.otlp_traces_endpoint,
        certificate,
        settings.log_text,
        settings.reasoning,
    )


def _with_slots(settings: Settings, model: GgufHeader, pooling: Pooling | None) -> Settings:
    """The settings, with slots of the longest default length where nothing is said and they cost little.

    In one pool, attention passes over all sequences' cells: prompts were read half as fast beside five others
    of 1,000 tokens.
    """
    if settings.context_tokens or settings.max_sequence_tokens or pooling is not None:
        return settings
    longest = kv_cache_tokens(
        None, sequence_tokens=None, sequences=1, trained_context=model.context_length or 0
    )
    sizes = {"context_tokens": longest * settings.max_sequences, "max_sequence_tokens": longest}
    roomy = settings.model_copy(update=sizes)
    limit = memory_limit()
    most = SLOTS_BYTES if limit is None else min(SLOTS_BYTES, limit // SLOTS_PART)
    size = cache_bytes(model, _cache_shape(roomy, model, sizes["context_tokens"], None))
    return roomy if 0 < size <= most else settings


def _check_helpers(settings: Settings, model: GgufHeader, pooling: Pooling | None) -> None:
    adapters = settings.lora or ()
    if pooling is not None and adapters:
        raise StartupError(f"{flag('lora')} needs a model that generates text: leave it out, or the pooling")
    if pooling is not None and (settings.draft_ngrams or settings.draft_model is not None):
        raise StartupError(f"{model.path} generates no text, so nothing can be guessed: leave the draft out")
    for adapter in adapters:
        check_adapter(adapter, model)


def _check_memory(
    settings: Settings, parts: Sequence[GgufHeader], context_tokens: int, pooling: Pooling | None
) -> MemoryEstimate:
    """Whether the model, its adapters and the draft model fit, and what they take."""
    limit = memory_limit()
    shape = _cache_shape(settings, parts[0], context_tokens, pooling)
    adapter_bytes = sum(adapter.path.stat().st_size for adapter in settings.lora or ())
    estimate = check_memory(parts, shape, limit, adapter_bytes)
    if settings.draft_model is None:
        return estimate
    left = None if limit is None else limit - estimate.total
    return replace(estimate, draft=check_memory(read_parts(settings.draft_model), shape, left).total)


def _cache_shape(
    settings: Settings, model: GgufHeader, context_tokens: int, pooling: Pooling | None
) -> CacheShape:
    """The context that the engine is going to make; see `predictor.engine.layout.plan_layout`."""
    slots = pooling is None and fits_slots(
        context_tokens, sequence_tokens=settings.max_sequence_tokens, sequences=settings.max_sequences
    )
    batch_tokens = _batch_tokens(settings, pooling, context_tokens)
    guesses = settings.draft_ngrams or settings.draft_model is not None
    return CacheShape(
        max(context_tokens, batch_tokens if pooling else 0),
        settings.max_sequences,
        slots,
        settings.kv_cache_type,
        settings.flash_attention,
        batch_tokens,
        settings.full_window,
        min(settings.draft_tokens, batch_tokens - 2) if guesses else 0,
    )


def _certificate(settings: Settings) -> CertificateFiles | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    files = CertificateFiles(settings.tls_cert_file, settings.tls_key_file)
    files.check()
    return files


def _pooling(settings: Settings, parts: Sequence[GgufHeader]) -> Pooling | None:
    """What was asked for, else what the model was made for; None generates text."""
    header = parts[0]
    declared = _POOLING_TYPES.get(header.integer(f"{header.architecture}.pooling_type", 0))
    pooling = declared if settings.pooling is None else _NAMED_POOLING.get(settings.pooling)
    if pooling is None and header.metadata.get(f"{header.architecture}.attention.causal") is False:
        raise StartupError(
            f"{header.path} is an encoder, which can't generate text: start it with {flag('pooling')} mean "
            "or cls, whichever it was trained with"
        )
    has_head = any(tensor.name.startswith("cls.") for part in parts for tensor in part.tensors)
    if pooling is Pooling.RANK and not has_head:
        raise StartupError(
            f"{header.path} has no classification head, so it is no reranker: choose another "
            f"{flag('pooling')}"
        )
    return pooling


def _batch_tokens(settings: Settings, pooling: Pooling | None, context_tokens: int) -> int:
    """Texts that are pooled must mostly fit into one step, so the default is larger for them."""
    if pooling is None or "max_batch_tokens" in settings.model_fields_set:
        return settings.max_batch_tokens
    return max(settings.max_batch_tokens, min(context_tokens, POOLED_BATCH_TOKENS))


def _is_repacked(kind: int, columns: int, rows: int, experts: int) -> bool:
    # Importing llama.cpp takes long, and few formats need the question.
    from predictor.engine.llama.cpu import is_repacked

    return is_repacked(kind, columns, rows, experts)


def _prefix_store(settings: Settings, files: list[Path], context_tokens: int) -> PrefixStore | None:
    if settings.prefix_cache_dir is None:
        return None
    # llama.cpp writes the number of cell ranges into every state and reads no other number back.
    slots = fits_slots(
        context_tokens, sequence_tokens=settings.max_sequence_tokens, sequences=settings.max_sequences
    )
    ranges = settings.max_sequences if slots else 1
    details = (
        *(version("llama-cpp-python"), settings.kv_cache_type, settings.flash_attention),
        *(str(ranges), str(settings.full_window)),
    )
    limit = settings.prefix_cache_dir_mib * 2**20
    adapters = {a.name: content_key([a.path], str(a.scale)) for a in settings.lora or ()}
    return PrefixStore(settings.prefix_cache_dir, content_key(files, *details), limit, adapters)


def _host_cache_bytes(settings: Settings, estimate: MemoryEstimate) -> int:
    """What was asked for, but never more than half of what the model leaves."""
    wanted, limit = settings.prefix_cache_mib * 2**20, memory_limit()
    return wanted if limit is None else min(wanted, (limit - estimate.total) // 2)


def _engine_config(settings: Settings, path: Path, context_tokens: int) -> EngineConfig:
    threads = settings.threads or default_threads()
    return EngineConfig(
        model_path=path,
        threads=threads,
        batch_threads=settings.threads_batch or threads,
        context_tokens=context_tokens,
        max_sequence_tokens=settings.max_sequence_tokens,
        draft_ngrams=settings.draft_ngrams,
        draft_model=settings.draft_model,
        draft_tokens=settings.draft_tokens,
        max_sequences=settings.max_sequences,
        max_batch_tokens=settings.max_batch_tokens,
        max_queue=settings.max_queue,
        max_step_seconds=settings.max_inter_token_latency_ms / 1000,
        gpu_layers=settings.n_gpu_layers,
        flash_attention=settings.flash_attention,
        cache_type=settings.kv_cache_type,
        full_window=settings.full_window,
        use_mmap=settings.mmap,
        use_mlock=settings.mlock,
        adapters={a.name: AdapterConfig(a.path, a.scale) for a in settings.lora or ()},
    )


def _check_traces(settings: Settings) -> None:
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    if settings.otlp_traces_endpoint and not _is_installed(exporter):
        raise StartupError(
            f"{flag('otlp_traces_endpoint')} needs OpenTelemetry: pip install 'kserve-llamacpp[otel]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # one of its parents
        return False


def _read_template(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"the chat template {path} can't be read: {error}") from error
