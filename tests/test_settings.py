from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from predictor.models.lora import LoraAdapter
from predictor.option_conflicts import CONFLICTS
from predictor.settings import ENV_PREFIX, Settings, env_var, explain, flag, shown

FIELDS = list(Settings.model_fields)


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def mistake(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    return explain(caught.value)


def test_only_the_model_must_be_given() -> None:
    settings = Settings(model="m.gguf")
    assert (settings.http_port, settings.grpc_port, settings.enable_grpc) == (8080, 8081, True)
    assert settings.context_tokens is None
    assert mistake() == "MODEL (LLAMACPP_MODEL): missing; name the model to serve"


def test_the_environment_gives_what_the_caller_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACPP_MAX_QUEUE", "7")
    monkeypatch.setenv("LLAMACPP_THREADS", "3")
    monkeypatch.setenv("LLAMACPP_LOG_FORMAT", "")
    settings = Settings(model="m", threads=2)
    assert (settings.max_queue, settings.threads, settings.log_format) == (7, 2, "text")


def test_adapters_come_from_flags_or_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (LoraAdapter("a", Path("x.gguf")), LoraAdapter("b", Path("/y:z.gguf"), 0.5))
    assert Settings(model="m", lora=["a=x.gguf", "b=/y:z.gguf:0.5"]).lora == both
    monkeypatch.setenv("LLAMACPP_LORA", "a=x.gguf  b=/y:z.gguf:0.5")
    settings = Settings(model="m")
    assert settings.lora == both
    assert Settings(**settings.model_dump(mode="json")).lora == both


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a", "is not of the form NAME=FILE"),
        ("=x", "is not of the form NAME=FILE"),
        ("a=", "is not of the form NAME=FILE"),
        ("a/b=x", "is not of the form NAME=FILE"),
        ("a=x:inf", "the scale must be a finite number"),
        ("a=x a=y", "two adapters are called 'a'"),
    ],
)
def test_adapters_of_another_form_are_refused(value: str, reason: str) -> None:
    assert mistake(model="m", lora=value).startswith("--lora (LLAMACPP_LORA): ")
    assert reason in mistake(model="m", lora=value)


def test_a_host_is_an_address() -> None:
    assert str(Settings(model="m", host="[::1]").host) == "::1"
    for wrong in ("localhost", "*", "127.0.0.1:80"):
        expected = (
            f"--host (LLAMACPP_HOST): is not an IP address, such as 127.0.0.1 or 0.0.0.0, not {wrong!r}"
        )
        assert mistake(model="m", host=wrong) == expected


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_says_what_it_is(field: str) -> None:
    info, display = Settings.model_fields[field], shown(field)
    assert info.description
    assert info.description.endswith(".")
    assert display.unit or info.annotation is bool
    needs_rule = info.default is None
    assert (display.default is not None) == needs_rule


def test_kubernetes_service_variables_set_no_field() -> None:
    # A Service called "llamacpp" puts these into every pod of its namespace.
    injected = {"LLAMACPP_PORT", "LLAMACPP_SERVICE_HOST", "LLAMACPP_SERVICE_PORT", "LLAMACPP_PORT_8080_TCP"}
    assert injected.isdisjoint(env_var(field) for field in FIELDS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model_name", "a/b"),
        ("model_name", ["m", "two words"]),
        ("model_file", ""),
        ("chat_template", "/no/such/template.jinja"),
        ("http_port", 0),
        ("grpc_port", 65536),
        ("enable_grpc", "perhaps"),
        ("max_body_bytes", 0),
        ("grace_period_seconds", -1),
        ("context_tokens", 63),
        ("max_sequences", 257),
        ("max_batch_tokens", 0),
        ("max_queue", -1),
        ("threads", 0),
        ("threads_batch", "1.5"),
        ("n_gpu_layers", -2),
        ("flash_attention", "yes"),
        ("kv_cache_type", "q4_0"),
        ("log_level", "trace"),
        ("log_format", "xml"),
    ],
)
def test_a_bad_value_is_named_by_flag_and_variable(field: str, value: object) -> None:
    message = mistake(**{"model": "m", field: value})
    assert message.startswith(f"{flag(field)} ({env_var(field)}): ")
    assert message.endswith(f", not {str(value)!r}")
    assert "\n" not in message


def test_a_model_has_each_of_its_names_once() -> None:
    assert Settings(model="m", model_name=["a", "org/b", "a"]).model_name == ("a", "org/b")
    assert Settings(model="m", model_name="a org/b").model_name == ("a", "org/b")  # as in the environment
    assert "two words" in mistake(model="m", model_name=["two words"])


def test_every_mistake_has_a_line() -> None:
    lines = mistake(model="m", http_port="x", max_queue=-1).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["--http-port", "--max-queue"]


def test_an_unknown_field_is_refused() -> None:
    assert "--htp-port" in mistake(model="m", htp_port=1)


# Of each contradiction one example, by its place in the table.
CONTRADICTIONS: list[dict[str, Any]] = [
    {"platform": "ray", "open_port": 9000},
    {"platform": "ray", "tls_cert_file": __file__, "tls_key_file": __file__},
    {"platform": "ray", "min_replicas": 0},
    {"platform": "ray", "replicas": 3, "max_replicas": 2},
    {"platform": "ray", "canary_percent": 10},
    {"http_port": 9000, "grpc_port": 9000},
    {"http_port": 9000, "open_port": 9000},
    {"tls_cert_file": __file__},
    {"key_requests_per_minute": 5},
    {"key_max_concurrent": 5},
    {"max_batch_tokens": 8, "max_sequences": 9},
    {"context_tokens": 1000, "max_sequence_tokens": 1001},
    {"draft_ngrams": True, "draft_model": "d.gguf"},
    {"draft_ngrams": True, "pooling": "mean"},
    {"draft_model": "d.gguf", "pooling": "rank"},
    {"lora": ["a=x.gguf"], "pooling": "last"},
    {"chat_template": __file__, "pooling": "cls"},
    {"ui": True, "pooling": "mean"},
    {"kv_cache_type": "q8_0", "flash_attention": "off"},
    {"prefix_cache_dir": "prefixes", "prefix_cache_mib": 0},
    {"log_text": True, "log_level": "warning"},
]


@pytest.mark.parametrize("number", range(len(CONFLICTS)))
def test_options_that_contradict_each_other(number: int) -> None:
    """Each is found, and its message names the options by their flags."""
    values = CONTRADICTIONS[number]
    conflict = CONFLICTS[number]
    message = mistake(model="m", **values)
    assert message == conflict.message.format(**{f: flag(f) for f in FIELDS}, of=_unchecked(**values))
    assert any(flag(field) in message for field in values)
    assert not conflict.holds(Settings(model="m"))


def _unchecked(**values: Any) -> Settings:
    """Settings whose options may contradict each other."""
    given = {"model": "m", **values}
    defaults = {name: info.default for name, info in Settings.model_fields.items()}
    return Settings.model_construct(**defaults | given)


def test_options_that_only_seem_to_contradict_each_other() -> None:
    Settings(model="m", http_port=9000, grpc_port=9000, enable_grpc=False)
    Settings(model="m", max_batch_tokens=8, max_sequences=8)
    Settings(model="m", kv_cache_type="q8_0")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings(model="m").model = "other"


def test_a_template_file_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages }}")
    assert Settings(model="m", chat_template=str(file)).chat_template == file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 2}, "--replicas needs --platform ray"),
        ({"canary_model": "m"}, "--canary-model needs --platform ray"),
        ({"platform": "ray", "min_replicas": 0}, "--min-replicas needs --max-replicas"),
        ({"platform": "ray", "replicas": 3, "max_replicas": 2}, "--max-replicas is less"),
        ({"platform": "ray", "min_replicas": 3, "max_replicas": 2}, "--max-replicas is less"),
        ({"platform": "ray", "canary_percent": 10}, "--canary-percent needs --canary-model"),
    ],
)
def test_options_of_ray_serve_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(model="m.gguf", **options)
