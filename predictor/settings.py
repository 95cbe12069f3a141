"""Every option of the server, once.

A field is a command-line flag (`--max-queue`), an environment variable (`LLAMACPP_MAX_QUEUE`) and a manifest
argument (`--max_queue`) at the same time. `predictor.cli` makes its options from the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from predictor.models.lora import LoraAdapter, parse_adapters
from predictor.models.names import parse_names
from predictor.option_conflicts import CONFLICTS, RAY_ONLY

ENV_PREFIX = "LLAMACPP_"
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ, fixed when llama.cpp is compiled


@dataclass(frozen=True, slots=True)
class Shown:
    """How an option looks in `--help`.

    Attributes:
        group: heading it stands under.
        unit: what its value counts or names.
        default: what happens without it, where the default is a rule and not a value.
    """

    group: str
    unit: str
    default: str | None = None


MODEL = "Model"
NETWORK = "Network"
BATCHING = "Context and batching"
COMPUTE = "Threads, memory and GPU"
ACCESS = "Access"
LOGGING = "Logs and traces"
RAY = "Ray Serve"

Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]


def parse_address(value: object) -> IPv4Address | IPv6Address | None:
    """An IP address from text.

    Raises:
        ValueError: it is something else, a host name for one.
    """
    if value is None or isinstance(value, IPv4Address | IPv6Address):
        return value
    try:
        return ip_address(str(value).strip("[]"))
    except ValueError:
        raise ValueError("is not an IP address, such as 127.0.0.1 or 0.0.0.0") from None


class Settings(BaseSettings):
    """What `kserve-llamacpp serve` was asked to do.

    Raises:
        pydantic.ValidationError: a value is wrong or two contradict each other; `explain` words it.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    model: Annotated[
        str,
        Field(
            min_length=1,
            description="Model to serve: a GGUF file, a folder with one, hf://owner/repo[:quantisation], "
            "or any reference that KServe's storage understands.",
        ),
        Shown(MODEL, "reference"),
    ]
    model_name: Annotated[
        tuple[str, ...] | None,
        NoDecode,
        BeforeValidator(parse_names),
        Field(
            description="Name that requests use for the model; may be given several times, in the "
            "environment with blanks between. The first one is its name in answers, metrics and traces.",
        ),
        Shown(MODEL, "name", "the file's name without .gguf"),
    ] = None
    model_file: Annotated[
        str | None,
        Field(
            min_length=1, description="File name or quantisation to take when there are several GGUF files."
        ),
        Shown(MODEL, "name", "the only one there"),
    ] = None
    pooling: Annotated[
        Literal["none", "mean", "cls", "last", "rank"] | None,
        Field(
            description="Serve embeddings (mean, cls or last state of a text) or reranking scores (rank) "
            "instead of text (none)."
        ),
        Shown(MODEL, "none|mean|cls|last|rank", "what the GGUF says, else none"),
    ] = None
    chat_template: Annotated[
        FilePath | None,
        Field(description="Jinja chat template to use instead of the model's own."),
        Shown(MODEL, "file", "the GGUF's template"),
    ] = None
    reasoning: Annotated[
        Literal["auto", "off", "raw"],
        Field(
            description="Thoughts of a model that thinks: told apart from its answers (auto), turned off "
            "where its template can do that (off), or left in the text (raw)."
        ),
        Shown(MODEL, "auto|off|raw"),
    ] = "auto"
    trust_message_tokens: Annotated[
        bool,
        Field(
            description="Read control tokens in messages and tool results, such as <|im_end|>, as control "
            "tokens: for callers who write parts of the template themselves. Whoever writes content can then "
            "forge turns."
        ),
        Shown(MODEL, ""),
    ] = False

    lora: Annotated[
        tuple[LoraAdapter, ...] | None,
        NoDecode,
        BeforeValidator(parse_adapters),
        Field(
            description="LoRA adapter to serve under a name of its own, NAME=FILE or NAME=FILE:SCALE; may be "
            "given several times, in the environment with blanks between."
        ),
        Shown(MODEL, "name=file", "none"),
    ] = None

    host: Annotated[
        IPv4Address | IPv6Address | None,
        BeforeValidator(parse_address),
        Field(
            description="Address to listen on, for all ports: 127.0.0.1 for this machine alone, 0.0.0.0 for "
            "every network, :: for those of IPv6 too."
        ),
        Shown(NETWORK, "address", "0.0.0.0 in a container or with API keys, else 127.0.0.1"),
    ] = None
    http_port: Annotated[
        Port, Field(description="Port of the V1, V2 and OpenAI protocols over HTTP."), Shown(NETWORK, "port")
    ] = 8080
    grpc_port: Annotated[
        Port, Field(description="Port of the V2 protocol over gRPC."), Shown(NETWORK, "port")
    ] = 8081
    enable_grpc: Annotated[bool, Field(description="Serve gRPC as well as HTTP."), Shown(NETWORK, "")] = True
    ui: Annotated[bool, Field(description="Serve a chat page at / to browsers."), Shown(NETWORK, "")] = False
    max_body_bytes: Annotated[
        Count, Field(description="Largest request body accepted."), Shown(NETWORK, "bytes")
    ] = 8 * 1024 * 1024
    client_timeout_seconds: Annotated[
        int,
        Field(
            ge=1,
            description="How long a client may take to send a whole HTTP request, and how long it may leave "
            "what it was sent unread; then its connection is closed.",
        ),
        Shown(NETWORK, "seconds"),
    ] = 60
    sse_ping_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="After so long without an event, a stream sends a comment or its protocol's ping, so "
            "that proxies and clients don't take it for dead while a long prompt is read; 0 sends none.",
        ),
        Shown(NETWORK, "seconds"),
    ] = 15
    grace_period_seconds: Annotated[
        int,
        Field(
            ge=0,
            description="How long running requests may take to finish after SIGTERM. Keep it below the pod's "
            "terminationGracePeriodSeconds.",
        ),
        Shown(NETWORK, "seconds"),
    ] = 25

    api_key_file: Annotated[
        FilePath | None,
        Field(description="File with the API keys that may call, one a line; read again when it changes."),
        Shown(ACCESS, "file", "everybody may call"),
    ] = None
    key_requests_per_minute: Annotated[
        Count | None,
        Field(description="Calls that one API key may make in a minute; a key's line in the file wins."),
        Shown(ACCESS, "calls", "no limit"),
    ] = None
    key_max_concurrent: Annotated[
        Count | None,
        Field(description="Calls of one API key that may run at the same time; a key's line wins here too."),
        Shown(ACCESS, "calls", "no limit"),
    ] = None
    open_port: Annotated[
        Port | None,
        Field(
            description="Port of their own for health and metrics, over plain HTTP and without an API key. "
            "On the other ports they need a key then."
        ),
        Shown(ACCESS, "port", "on the other ports, without a key"),
    ] = None
    tls_cert_file: Annotated[
        FilePath | None,
        Field(
            description="Certificate chain in PEM for TLS, over HTTP and gRPC; read again when it changes."
        ),
        Shown(ACCESS, "file", "no TLS"),
    ] = None
    tls_key_file: Annotated[
        FilePath | None,
        Field(description="Private key of the certificate, in PEM and without a password."),
        Shown(ACCESS, "file", "no TLS"),
    ] = None
    cors_origins: Annotated[
        str | None,
        Field(
            pattern=r"^(\*|https?://[^\s,/*]+(,https?://[^\s,/*]+)*)$",
            description="Origins whose pages may call from a browser, separated by commas, or * for all.",
        ),
        Shown(ACCESS, "origins", "none"),
    ] = None

    context_tokens: Annotated[
        int | None,
        Field(ge=64, description="Size of the KV cache, shared by all running sequences."),
        Shown(
            BATCHING,
            "tokens",
            "the model's training context, at most 8192; as much for each sequence where that takes at most "
            "1 GiB and an eighth of the memory limit",
        ),
    ] = None
    max_sequence_tokens: Annotated[
        int | None,
        Field(
            ge=64,
            description="Longest a request may get, prompt and answer. Where the KV cache holds that many "
            "for every sequence, each gets cells of its own, which is faster with many of them; it is made "
            "that large unless a size is given.",
        ),
        Shown(BATCHING, "tokens", "all of the KV cache"),
    ] = None
    max_sequences: Annotated[
        int,
        Field(ge=1, le=MAX_SEQUENCES, description="Sequences that run at the same time."),
        Shown(BATCHING, "sequences"),
    ] = 16
    max_batch_tokens: Annotated[
        Count,
        Field(
            description="Tokens decoded in one step. With fewer, a long prompt stalls running streams less; "
            "with more, prompts are read faster."
        ),
        Shown(BATCHING, "tokens"),
    ] = 512
    max_queue: Annotated[
        int,
        Field(ge=0, description="Requests that may wait; more are refused with status 429."),
        Shown(BATCHING, "requests"),
    ] = 256

    max_inter_token_latency_ms: Annotated[
        Count,
        Field(description="How long prompts that come in may hold up the next token of running streams."),
        Shown(BATCHING, "milliseconds"),
    ] = 500

    draft_ngrams: Annotated[
        bool,
        Field(
            description="Speculative decoding: guess tokens from what followed the same words before, and "
            "check them together. The text stays the model's own, and guessing stops where it is slower."
        ),
        Shown(BATCHING, ""),
    ] = False
    draft_model: Annotated[
        Path | None,
        Field(description="Speculative decoding with a smaller GGUF of the same vocabulary that guesses."),
        Shown(BATCHING, "file", "none"),
    ] = None
    draft_tokens: Annotated[
        int,
        Field(ge=1, le=128, description="Most tokens guessed for a sequence in one step."),
        Shown(BATCHING, "tokens"),
    ] = 8

    prefix_cache_mib: Annotated[
        int,
        Field(
            ge=0,
            description="Memory for the KV state of earlier prompts, beside the KV cache; it spares prompts "
            "with the same beginning from being read again.",
        ),
        Shown(BATCHING, "MiB"),
    ] = 256
    prefix_cache_dir: Annotated[
        Path | None,
        Field(
            description="Folder that keeps such state for the next start: on SIGTERM and every five minutes. "
            "It holds what prompts said; keep it as private as the prompts. Several servers may share it. To "
            "tell models apart, the whole file is read at the start."
        ),
        Shown(BATCHING, "folder", "none is kept"),
    ] = None
    prefix_cache_dir_mib: Annotated[
        Count, Field(description="Most that this folder may hold for one model."), Shown(BATCHING, "MiB")
    ] = 1024

    threads: Annotated[
        Count | None,
        Field(description="CPU threads that generate tokens."),
        Shown(COMPUTE, "threads", "the container's CPU quota, else the physical cores"),
    ] = None
    threads_batch: Annotated[
        Count | None,
        Field(description="CPU threads that read prompts."),
        Shown(COMPUTE, "threads", "as --threads"),
    ] = None
    n_gpu_layers: Annotated[
        int,
        Field(
            ge=-1, description="Model layers to keep on the GPU, -1 for all; needs llama.cpp built for a GPU."
        ),
        Shown(COMPUTE, "layers"),
    ] = 0
    flash_attention: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Fused attention kernel; auto lets llama.cpp decide."),
        Shown(COMPUTE, "auto|on|off"),
    ] = "auto"
    openblas: Annotated[
        bool,
        Field(
            description="Read prompts with OpenBLAS where llama.cpp's own kernels are slow: on x86 with "
            "weights in Q4_1 or Q5_1."
        ),
        Shown(COMPUTE, ""),
    ] = True
    kv_cache_type: Annotated[
        Literal["f16", "q8_0"],
        Field(description="Number format of the KV cache; q8_0 takes about half the memory of f16."),
        Shown(COMPUTE, "f16|q8_0"),
    ] = "f16"
    full_window: Annotated[
        bool,
        Field(
            description="Keep all tokens of layers with a sliding window, not only those in it: takes more "
            "memory, and chats can be gone back in as far as you like."
        ),
        Shown(COMPUTE, ""),
    ] = False
    mmap: Annotated[
        bool,
        Field(description="Map the file into memory; without it, it is read in full first."),
        Shown(COMPUTE, ""),
    ] = True
    mlock: Annotated[
        bool, Field(description="Lock the model in RAM so that it is never swapped out."), Shown(COMPUTE, "")
    ] = False

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="Least severe messages to log."),
        Shown(LOGGING, "debug|info|warning|error"),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        Field(description="One line of text or one JSON object per message."),
        Shown(LOGGING, "text|json"),
    ] = "text"
    log_text: Annotated[
        bool,
        Field(description="Log what prompts and answers say, with the line of each request that has ended."),
        Shown(LOGGING, ""),
    ] = False
    log_llama: Annotated[bool, Field(description="Log llama.cpp's own messages too."), Shown(LOGGING, "")] = (
        False
    )

    otlp_traces_endpoint: Annotated[
        str | None,
        Field(
            pattern=r"^https?://",
            description="Send OpenTelemetry traces over OTLP/HTTP to this URL, such as "
            "http://collector:4318/v1/traces.",
        ),
        Shown(LOGGING, "URL", "no traces"),
    ] = None

    platform: Annotated[
        Literal["kserve", "ray"],
        Field(description="What serves the model: kserve's model server, or Ray Serve."),
        Shown(RAY, "kserve|ray"),
    ] = "kserve"
    replicas: Annotated[
        Count, Field(description="Replicas of the model, each with its own threads."), Shown(RAY, "replicas")
    ] = 1
    min_replicas: Annotated[
        int | None,
        Field(ge=0, description="Replicas that stay when there is little to do, with autoscaling."),
        Shown(RAY, "replicas", "as many as without autoscaling"),
    ] = None
    max_replicas: Annotated[
        Count | None,
        Field(description="Autoscaling: the most replicas there may be when all sequences are busy."),
        Shown(RAY, "replicas", "no autoscaling"),
    ] = None
    replica_gpus: Annotated[
        float, Field(ge=0, description="GPUs that Ray gives each replica."), Shown(RAY, "GPUs")
    ] = 0
    routing: Annotated[
        Literal["prefix", "load"],
        Field(
            description="Which replica gets a request: the one that knows the beginning of its prompt unless "
            "it is overloaded, or always the less busy one of two."
        ),
        Shown(RAY, "prefix|load"),
    ] = "prefix"
    canary_model: Annotated[
        str | None,
        Field(min_length=1, description="A second model that gets a part of the requests, as for MODEL."),
        Shown(RAY, "reference", "none"),
    ] = None
    canary_percent: Annotated[
        int, Field(ge=0, le=100, description="Share of the requests that it gets."), Shown(RAY, "percent")
    ] = 0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        flags = {field: flag(field) for field in type(self).model_fields}
        for field in RAY_ONLY:
            if self.platform != "ray" and getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"{flag(field)} needs {flag('platform')} ray")
        for conflict in CONFLICTS:
            if conflict.holds(self):
                raise ValueError(conflict.message.format(**flags, of=self))
        return self


def flag(field: str) -> str:
    """The command-line spelling of a field."""
    return "MODEL" if field == "model" else "--" + field.replace("_", "-")


def env_var(field: str) -> str:
    """The environment variable of a field."""
    return ENV_PREFIX + field.upper()


def shown(field: str) -> Shown:
    """How a field looks in `--help`."""
    return next(item for item in Settings.model_fields[field].metadata if isinstance(item, Shown))


def explain(error: ValidationError) -> str:
    """One line per mistake, each naming the flag and the environment variable to correct."""
    lines = []
    for mistake in error.errors(include_url=False):
        text = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "missing":
            text = "missing; name the model to serve"
        elif mistake["loc"]:
            text += f", not {str(mistake['input'])!r}"
        lines.append(": ".join([*(f"{flag(f)} ({env_var(f)})" for f in map(str, mistake["loc"])), text]))
    return "\n".join(lines)
