"""Write the reference pages of the documentation from the code.

reference_pages.py MODEL.gguf          starts a server on free ports for its OpenAPI document
reference_pages.py http://HOST:PORT    asks a running one
reference_pages.py --check ...         writes nothing, and fails where a page is not what would be written
"""

from __future__ import annotations

import argparse
import inspect
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from predictor.engine.request import SamplingParams  # noqa: E402
from predictor.serving.deferred_imports import import_kserve  # noqa: E402
from predictor.settings import Settings, env_var, flag, shown  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
GENERATED = "<!-- Written by scripts/reference_pages.py from the code: `make reference`. -->"
START_SECONDS = 120.0
HIDDEN_SCHEMAS = {"HTTPValidationError", "ValidationError"}
WIDEST = 2**62  # limits beyond it are those of the number's type

Schema = Mapping[str, Any]


def options_page() -> str:
    """Every option of `kserve-llamacpp serve`, in the order and groups of its help."""
    lines = [
        "# Options",
        GENERATED,
        "Options of `kserve-llamacpp serve`. Each is a flag, an environment variable, and in a manifest an "
        "argument in either spelling: `--max-queue=8`, `LLAMACPP_MAX_QUEUE=8`, `--max_queue=8`. The flag "
        "wins over the variable. `MODEL` can be given as `--model-dir` too, as KServe's runtimes do.",
    ]
    group = None
    for name, info in Settings.model_fields.items():
        if shown(name).group != group:
            group = shown(name).group
            lines += [f"## {group}", _row("Option", "Values", "Default", "Meaning"), _row(*["---"] * 4)]
        names = f"`{flag(name)}`<br>`{env_var(name)}`"
        lines.append(_row(names, _values(name), _default(name), info.description or ""))
    return _page(lines)


def _values(name: str) -> str:
    info, unit = Settings.model_fields[name], shown(name).unit
    if info.annotation is bool:
        return f"`{flag(name)}` or `--no-{flag(name).removeprefix('--')}`"
    if "|" in unit:
        return ", ".join(f"`{value}`" for value in unit.split("|"))
    schema = Settings.model_json_schema()["properties"][name]
    return unit + "".join(f", {limit}" for limit in _limits(_without_null(schema)))


def _default(name: str) -> str:
    info, display = Settings.model_fields[name], shown(name)
    if display.default is not None:
        return display.default
    if info.is_required():
        return "none: it must be given"
    return ("on" if info.default else "off") if info.annotation is bool else f"`{info.default}`"


def http_page(document: Schema) -> str:
    """The routes of an OpenAPI document with the fields of their bodies."""
    schemas = document["components"]["schemas"]
    lines = [
        "# HTTP routes",
        GENERATED,
        "From the OpenAPI document that a server gives at `/openapi.json`. [Protocols](../protocols.md) says "
        "how the protocols differ; its examples are run in the tests.",
    ]
    for heading, routes in _by_tag(document["paths"]).items():
        lines += [f"## {heading}", _row("Route", "Body"), _row("---", "---")]
        lines += [_row(f"`{method.upper()} {path}`", _body(route)) for method, path, route in routes]
    lines += ["## Bodies", "Sampling fields mean the same in every protocol; their defaults are llama.cpp's."]
    for name, schema in schemas.items():
        if name not in HIDDEN_SCHEMAS:
            lines += [f"### {name}", *_fields_table(schema)]
    return _page(lines)


def _by_tag(paths: Schema) -> dict[str, list[tuple[str, str, Schema]]]:
    found: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in paths.items():
        twin = path.removeprefix("/openai")
        if twin != path and twin in paths:
            continue
        for method, route in methods.items():
            tag = next(iter(route.get("tags", [])), "Health and metrics")
            both = f"{path}` and `/openai{path}" if f"/openai{path}" in paths else path
            found.setdefault(tag, []).append((method, both, route))
    return found


def _body(route: Schema) -> str:
    content = route.get("requestBody", {}).get("content", {})
    return ", ".join(_type(media["schema"]) for media in content.values()) or ""


def _fields_table(schema: Schema) -> list[str]:
    lines = [" ".join(str(schema.get("description", "")).split())]
    lines += [_row("Field", "Type", "Default", "Meaning"), _row(*["---"] * 4)]
    required, meanings = schema.get("required", []), _sampling_meanings()
    for name, field in schema.get("properties", {}).items():
        default, meaning = meanings.get(name, ("", ""))
        default = "required" if name in required else default
        if "default" in field:
            default = f"`{field['default']}`"
        lines.append(_row(f"`{name}`", _type(field), default, field.get("description", meaning)))
    return lines


def _sampling_meanings() -> dict[str, tuple[str, str]]:
    """Default and meaning of each sampling field, from `SamplingParams` and its docstring."""
    text = inspect.getdoc(SamplingParams) or ""
    attributes = text.partition("Attributes:")[2].partition("Raises:")[0]
    found = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+:|\Z)", attributes, re.M | re.S)
    defaults = {
        f.name: "" if f.default is MISSING or f.default is None else f.default for f in fields(SamplingParams)
    }
    return {
        name: (f"`{defaults[name]}`" if defaults[name] != "" else "", _sentence(words))
        for name, words in found
    }


def _sentence(words: str) -> str:
    text = " ".join(words.split())
    return text[:1].upper() + text[1:]


def _type(schema: Schema) -> str:
    schema = _without_null(schema)
    if ref := schema.get("$ref"):
        name = ref.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(_type(option) for option in options)
    if values := schema.get("enum"):
        return ", ".join(f"`{value}`" for value in values)
    kind = schema.get("type", "any")
    if kind == "array":
        return "list of " + _type(schema.get("items", {}))
    return kind + "".join(f", {limit}" for limit in _limits(schema))


def _without_null(schema: Schema) -> Schema:
    """The schema of a value that is given; `null` is the same as leaving it out."""
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    return options[0] if len(options) == 1 else {**schema, **({"anyOf": options} if options else {})}


def _limits(schema: Schema) -> Iterator[str]:
    for key, words in {"minimum": "at least", "maximum": "at most"}.items():
        if key in schema and abs(schema[key]) < WIDEST:
            yield f"{words} {schema[key]:g}"


def grpc_page() -> str:
    """The gRPC service that kserve serves, and the model's tensors."""
    import_kserve()
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as proto

    from predictor.api.open_inference.model import LlamaCppModel
    from predictor.generation.served_models import ServedModels

    (service,) = proto.DESCRIPTOR.services_by_name.values()
    lines = [
        "# gRPC",
        GENERATED,
        f"Service `{service.full_name}` of kserve's `{proto.DESCRIPTOR.name}`, the Open Inference Protocol.",
        _row("Call", "Request", "Answer"),
        _row(*["---"] * 3),
    ]
    for method in service.methods:
        messages = (method.input_type.name, method.output_type.name)
        lines.append(_row(f"`{method.name}`", *(f"[{name}](#{name.lower()})" for name in messages)))
    model = LlamaCppModel("model", ServedModels("model"))
    lines += [
        "Beside it, with Triton's messages in `predictor/api/open_inference/triton.proto`: "
        "`ModelStreamInfer`, `ModelConfig`, `ModelStatistics`, `RepositoryIndex`. And the service "
        "`grpc.health.v1.Health`.",
        "## Tensors",
        "The same over REST. `n` is the number of prompts.",
        _row("", "Tensor", "Datatype"),
    ]
    lines.append(_row(*["---"] * 3))
    for side, tensors in (("input", model.get_input_types()), ("output", model.get_output_types())):
        lines += [_row(side, f"`{tensor['name']}`", tensor["datatype"]) for tensor in tensors]
    lines.append("## Messages")
    for message in proto.DESCRIPTOR.message_types_by_name.values():
        lines += _message_table(message)
    return _page(lines)


def _message_table(message: Any, prefix: str = "") -> Iterator[str]:
    yield f"### {prefix}{message.name}"
    if not message.fields:
        yield "Empty."
    else:
        yield from (_row("Number", "Field", "Type"), _row(*["---"] * 3))
        for field in message.fields:
            yield _row(str(field.number), f"`{field.name}`", _field_type(field))
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from _message_table(nested, f"{message.name}.")


def _field_type(field: Any) -> str:
    names = {
        value: name.removeprefix("TYPE_").lower()
        for name, value in vars(type(field)).items()
        if name.startswith("TYPE_")
    }
    if field.message_type is None:
        kind = names[field.type]
    elif field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map of {_field_type(key)} to {_field_type(value)}"
    else:
        kind = f"`{field.message_type.name}`"
    return f"list of {kind}" if field.is_repeated else kind


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _page(lines: list[str]) -> str:
    """Lines joined: those of a table one below the other, all else with an empty line between."""
    text = ""
    for before, line in zip([None, *lines], lines, strict=False):
        text += "\n" if before is None or (before.startswith("|") and line.startswith("|")) else "\n\n"
        text += line
    return text.lstrip("\n") + "\n"


@contextmanager
def _server(source: str) -> Iterator[str]:
    """The address of a server: the one given, or one that is started on a model."""
    if source.startswith(("http://", "https://")):
        yield source
        return
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as grpc:
        ports = (http.getsockname()[1], grpc.getsockname()[1])
    command = [sys.executable, "-m", "predictor.cli", "serve", source, f"--http-port={ports[0]}"]
    process = subprocess.Popen([*command, f"--grpc-port={ports[1]}", "--log-level=error"], cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait(60)


def _openapi(url: str) -> Any:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return httpx.get(f"{url}/openapi.json", timeout=30).raise_for_status().json()
        except httpx.TransportError as error:
            if time.monotonic() > deadline:
                sys.exit(f"no server at {url}: {error}")
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", help="a GGUF file or the address of a running server")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    with _server(arguments.source) as url:
        document = _openapi(url)
    pages: dict[str, Callable[[], str]] = {
        "options": options_page,
        "http": lambda: http_page(document),
        "grpc": grpc_page,
    }
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name, write in pages.items():
        path, text = FOLDER / f"{name}.md", write()
        if not arguments.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
    if stale:
        sys.exit(f"not what the code says: {', '.join(stale)}; run: make reference")


if __name__ == "__main__":
    main()
