"""Two models have one name only where every byte is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.models import digest
from predictor.models.digest import content_key


def test_every_byte_the_files_order_and_the_details_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "BLOCK_BYTES", 4096)
    content = bytes(range(256)) * 64
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(content)
    keys = {content_key([first], "f16"), content_key([first], "q8_0"), content_key([first], "f1", "6")}
    for place in range(0, len(content), 1021):
        second.write_bytes(content[:place] + b"!!" + content[place + 2 :])
        keys.add(content_key([second], "f16"))
    assert len(keys) == 3 + len(range(0, len(content), 1021))
    keys |= {content_key([first, second]), content_key([second, first])}
    assert len(keys) == 5 + len(range(0, len(content), 1021))
    second.write_bytes(content)
    assert content_key([second], "f16") == content_key([first], "f16")


def test_an_empty_file_has_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert content_key([tmp_path / "a"]) != content_key([])
