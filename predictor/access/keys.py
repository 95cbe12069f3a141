"""API keys from a file that may change while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from predictor.errors import StartupError

logger = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16
_KEY = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMIT = re.compile(r"(requests_per_minute|max_concurrent)=(.*)")


class KeyFileError(StartupError):
    """The key file can't be used; the message never holds a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line of the key file.

    Attributes:
        name: for logs; `key-N` for the Nth key where the file names none.
        digest: SHA-256 of the key, so that memory holds no key.
        requests_per_minute, max_concurrent: the key's own limits; None for the server's.
    """

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    max_concurrent: int | None = None


class KeyFile:
    """The keys of a file, read again whenever the file has changed.

    A mounted Kubernetes Secret changes by an exchange of symbolic links, so what the path leads to is what is
    looked at. A file that is gone or has a mistake leaves the keys as they were, since a rollout of a Secret
    passes through such moments.

    Args:
        path: one key a line; see `parse_keys`.

    Raises:
        KeyFileError: the file can't be read, or has a mistake or no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _state(path)
        self._keys = read_keys(path)

    def find(self, presented: str) -> ApiKey | None:
        """The entry of a key, None for one that isn't there.

        Takes as long for a wrong key as for a right one, whatever place it has in the file.
        """
        self._refresh()
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _refresh(self) -> None:
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = read_keys(self._path)
        except KeyFileError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("read %d API keys: %s", len(self._keys), ", ".join(k.name for k in self._keys))


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file.

    Raises:
        KeyFileError: the file can't be read, or has a mistake or no key.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyFileError(f"the API key file {path} can't be read: {reason}") from None
    return parse_keys(text, str(path))


def parse_keys(text: str, where: str) -> tuple[ApiKey, ...]:
    """The keys of a text: a line each, `[NAME] KEY [requests_per_minute=N] [max_concurrent=N]`.

    Empty lines and lines that begin with `#` don't count.

    Args:
        text: the lines.
        where: what error messages call the text.

    Raises:
        KeyFileError: a line has a mistake, or there is no key; the message gives the line's number only.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            keys.append(_parse_line(words, len(keys) + 1, f"{where}, line {number}"))
            _check_unique(keys, f"{where}, line {number}")
    if not keys:
        raise KeyFileError(f"{where} has no key: write one a line, such as `openssl rand -hex 32` makes")
    return tuple(keys)


def _parse_line(words: list[str], count: int, where: str) -> ApiKey:
    plain = [word for word in words if not _LIMIT.fullmatch(word)]
    if not 1 <= len(plain) <= 2 or words[: len(plain)] != plain:
        raise KeyFileError(
            f"{where}: must be [NAME] KEY [requests_per_minute=N] [max_concurrent=N], separated by blanks"
        )
    name, key = (f"key-{count}", plain[0]) if len(plain) == 1 else plain
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{where}: a name has up to 64 letters, digits, dots, dashes and underscores")
    if not _KEY.fullmatch(key) or len(key) < MIN_KEY_LENGTH:
        raise KeyFileError(f"{where}: a key needs at least {MIN_KEY_LENGTH} characters, all of them ASCII")
    limits: dict[str, int] = {}
    for word in words[len(plain) :]:
        field, value = word.split("=", 1)
        if not value.isdecimal() or int(value) < 1 or field in limits:
            raise KeyFileError(f"{where}: {field} must be given once, as a whole number of at least 1")
        limits[field] = int(value)
    return ApiKey(name, hashlib.sha256(key.encode()).digest(), **limits)


def _check_unique(keys: list[ApiKey], where: str) -> None:
    *earlier, last = keys
    for key in earlier:
        if key.name == last.name or key.digest == last.digest:
            same = "name" if key.name == last.name else "key"
            raise KeyFileError(f"{where}: an earlier line has the same {same}")


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes with the file behind a path, following links; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
