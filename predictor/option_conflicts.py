"""Options that can't both be meant: one table, checked before anything is started.

An option that another one leaves without effect belongs here as well as two that exclude each other. What
takes the model's header to see is checked in `serving/startup.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RAY_ONLY = (
    *("replicas", "min_replicas", "max_replicas", "replica_gpus", "routing"),
    *("canary_model", "canary_percent"),
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A contradiction.

    Attributes:
        message: what is wrong and what to do; `{field}` is an option's flag, `{of.field}` its value.
        holds: whether it is there, in `predictor.settings.Settings`.
    """

    message: str
    holds: Callable[[Any], bool]


def _pooled(settings: Any) -> bool:
    return settings.pooling not in (None, "none")


CONFLICTS = (
    Conflict(
        "{open_port} is not for {platform} ray, whose proxy owns the ports",
        lambda s: s.platform == "ray" and s.open_port is not None,
    ),
    Conflict(
        "{tls_cert_file} is not for {platform} ray, whose proxy owns the ports",
        lambda s: s.platform == "ray" and s.tls_cert_file is not None,
    ),
    Conflict(
        "{min_replicas} needs {max_replicas}",
        lambda s: s.max_replicas is None and s.min_replicas is not None,
    ),
    Conflict(
        "{max_replicas} is less than the replicas that always stay",
        lambda s: (
            s.max_replicas is not None
            and s.max_replicas < (s.replicas if s.min_replicas is None else s.min_replicas)
        ),
    ),
    Conflict(
        "{canary_percent} needs {canary_model}", lambda s: bool(s.canary_percent) and s.canary_model is None
    ),
    Conflict(
        "{http_port} and {grpc_port} are both {of.http_port}: choose two ports, or --no-enable-grpc",
        lambda s: s.enable_grpc and s.http_port == s.grpc_port,
    ),
    Conflict(
        "{open_port} {of.open_port} is another option's port: choose its own",
        lambda s: s.open_port in (s.http_port, *((s.grpc_port,) if s.enable_grpc else ())),
    ),
    Conflict(
        "{tls_cert_file} and {tls_key_file} are needed together",
        lambda s: (s.tls_cert_file is None) != (s.tls_key_file is None),
    ),
    Conflict(
        "{key_requests_per_minute} limits API keys: give {api_key_file} too",
        lambda s: s.key_requests_per_minute is not None and s.api_key_file is None,
    ),
    Conflict(
        "{key_max_concurrent} limits API keys: give {api_key_file} too",
        lambda s: s.key_max_concurrent is not None and s.api_key_file is None,
    ),
    Conflict(
        "{max_batch_tokens} is {of.max_batch_tokens}, less than {max_sequences} {of.max_sequences}: each "
        "running sequence needs one token of every step",
        lambda s: s.max_batch_tokens < s.max_sequences,
    ),
    Conflict(
        "{max_sequence_tokens} is {of.max_sequence_tokens}, but {context_tokens} {of.context_tokens} is all "
        "there is: raise the second, or leave it out",
        lambda s: (
            s.context_tokens is not None
            and s.max_sequence_tokens is not None
            and s.max_sequence_tokens > s.context_tokens
        ),
    ),
    Conflict(
        "{draft_ngrams} and {draft_model} exclude each other: leave one out",
        lambda s: s.draft_ngrams and s.draft_model is not None,
    ),
    Conflict(
        "{draft_ngrams} guesses tokens, and {pooling} {of.pooling} generates none: leave one out",
        lambda s: s.draft_ngrams and _pooled(s),
    ),
    Conflict(
        "{draft_model} guesses tokens, and {pooling} {of.pooling} generates none: leave one out",
        lambda s: s.draft_model is not None and _pooled(s),
    ),
    Conflict(
        "{lora} needs a model that generates text: leave it out, or {pooling} {of.pooling}",
        lambda s: bool(s.lora) and _pooled(s),
    ),
    Conflict(
        "{chat_template} is for chats, and {pooling} {of.pooling} serves none: leave one out",
        lambda s: s.chat_template is not None and _pooled(s),
    ),
    Conflict(
        "{ui} is a page for chats, and {pooling} {of.pooling} serves none: leave one out",
        lambda s: s.ui and _pooled(s),
    ),
    Conflict(
        "{kv_cache_type} {of.kv_cache_type} needs flash attention: leave {flash_attention} at auto or on",
        lambda s: s.kv_cache_type != "f16" and s.flash_attention == "off",
    ),
    Conflict(
        "{prefix_cache_dir} keeps what {prefix_cache_mib} holds, which is nothing at 0: raise the second, or "
        "leave the folder out",
        lambda s: s.prefix_cache_dir is not None and s.prefix_cache_mib == 0,
    ),
    Conflict(
        "{log_text} adds to lines of the level info, which {log_level} {of.log_level} leaves out: leave one "
        "out",
        lambda s: s.log_text and s.log_level in ("warning", "error"),
    ),
)
