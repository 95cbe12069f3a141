"""A server of a tiny model that fills gaps, under several names."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import pytest
from server_process import Server, running_server
from tiny_models import tiny_llama

MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
ALIASES = ("second", "org/third")


@pytest.fixture(scope="session")
def filling(platform: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What it writes is noise."""
    folder = tmp_path_factory.mktemp("infill")
    model = tiny_llama(folder / "filling.gguf", further=dict.fromkeys(MARKS, gguf.TokenType.CONTROL))
    options = [part for alias in ALIASES for part in ("--model-name", alias)]
    with running_server(
        model.path, folder / "log", "--platform", platform, *options, context_tokens=512
    ) as server:
        yield server
