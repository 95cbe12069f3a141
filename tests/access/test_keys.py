"""The key file: what it may hold, what is said about mistakes, and what happens when it changes."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from predictor.access.keys import ApiKey, KeyFile, KeyFileError, parse_keys

ONE, TWO = "one-0123456789abcdef", "two-0123456789abcdef=="


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def test_every_form_of_a_line() -> None:
    text = f"# mine\n\n{ONE}\n  bob\t{TWO}  max_concurrent=2 requests_per_minute=30\n"
    assert parse_keys(text, "f") == (ApiKey("key-1", digest(ONE)), ApiKey("bob", digest(TWO), 30, 2))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no key"),
        ("# only a comment\n", "has no key"),
        ("tooshort", "at least 16 characters"),
        ("schlüssel-0123456789abcdef", "ASCII"),
        (f"a b {ONE}", "must be"),
        (f"max_concurrent=2 {ONE}", "must be"),
        (f"na/me {ONE}", "a name has"),
        (f"{ONE} max_concurrent=0", "max_concurrent must be"),
        (f"{ONE} requests_per_minute=ten", "requests_per_minute must be"),
        (f"{ONE} max_concurrent=1 max_concurrent=2", "once"),
        (f"a {ONE}\nb {ONE}", "same key"),
        (f"a {ONE}\na {TWO}", "same name"),
    ],
)
def test_a_mistake_is_named_by_its_line_and_never_shows_a_key(text: str, reason: str) -> None:
    with pytest.raises(KeyFileError, match=reason) as error:
        parse_keys(text, "keys.txt")
    assert "keys.txt" in error.value.message
    for word in (ONE, TWO, "tooshort", "schl"):
        assert word not in error.value.message


def test_keys_are_found_exactly(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann {ONE}\nbob {TWO}\n")
    keys = KeyFile(path)
    assert [found.name for key in (ONE, TWO) if (found := keys.find(key))] == ["ann", "bob"]
    for wrong in ("", ONE[:-1], ONE + "x", ONE.upper(), "ann", "\udcff", "é" * 20):
        assert keys.find(wrong) is None


def test_every_key_is_compared_with_whatever_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{ONE}\n{TWO}\n")
    keys = KeyFile(path)
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    keys.find(ONE)
    assert compared == [digest(ONE), digest(TWO)]


def test_a_secret_that_kubernetes_exchanges_is_read_again(tmp_path: Path) -> None:
    """The kubelet writes a new folder and renames a link to it; the path itself stays a link."""
    publish(tmp_path, "v1", ONE)
    path = tmp_path / "keys"
    path.symlink_to("..data/keys")
    keys = KeyFile(path)
    assert keys.find(ONE)
    for version, key, former in (("v2", TWO, ONE), ("v3", ONE, TWO)):
        publish(tmp_path, version, key)
        assert keys.find(key)
        assert keys.find(former) is None


def publish(folder: Path, version: str, text: str) -> None:
    (folder / version).mkdir()
    (folder / version / "keys").write_text(text)
    (folder / "..new").symlink_to(version)
    os.replace(folder / "..new", folder / "..data")


def test_a_file_that_breaks_leaves_the_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text(ONE)
    keys = KeyFile(path)
    caplog.set_level(logging.ERROR)
    for number, text in enumerate((None, "short", "", b"\xff\xfe"), 1):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert keys.find(ONE)
        assert keys.find(ONE)
        assert len(caplog.records) == number, "said once"
    path.write_text(TWO)
    assert keys.find(ONE) is None
    assert keys.find(TWO)
