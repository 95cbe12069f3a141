"""Where chats in the terminal are kept: saved ones, and the lines that were typed.

Both hold what was said, so that nobody else on the machine may read them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import orjson

from predictor.client.conversation import Conversation
from predictor.client.endpoint import ClientError

_NAME = re.compile(r"[\w][\w.-]{0,99}")
_APPLICATION = "kserve-llamacpp"


def history_file() -> Path:
    """The file of typed lines, made where there is none."""
    path = _folder("XDG_STATE_HOME", ".local/state") / "chat-history"
    path.touch(mode=0o600)
    return path


def save(conversation: Conversation, name: str) -> Path:
    """Keep a conversation under a name; an earlier one of this name is replaced.

    Returns:
        The file.

    Raises:
        ClientError: the name can't be one, or the file can't be written.
    """
    path = _file(name)
    content = {
        "model": conversation.model,
        "system": conversation.system,
        "parameters": conversation.fields,
        "messages": conversation.messages,
    }
    unfinished = path.with_suffix(".part")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        unfinished.replace(path)
    except OSError as error:
        raise ClientError(f"{path} can't be written: {error.strerror}") from None
    return path


def load(conversation: Conversation, name: str) -> None:
    """Go on with a saved conversation; the model stays the one that is asked now.

    Raises:
        ClientError: there is none of this name, or its file can't be used.
    """
    path = _file(name)
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in content["messages"]]
        system, fields = content["system"], dict(content["parameters"])
    except FileNotFoundError:
        raise ClientError(
            f"no chat is saved as {name!r}; there are: {', '.join(names()) or 'none'}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ClientError(f"{path} can't be read as a saved chat") from None
    conversation.messages, conversation.system, conversation.fields = messages, system, fields


def names() -> list[str]:
    """Names of the saved conversations."""
    return sorted(path.stem for path in _chats().glob("*.json"))


def _file(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ClientError(f"{name!r} can't be a chat's name: use letters, digits, dots, - and _")
    return _chats() / f"{name}.json"


def _chats() -> Path:
    return _folder("XDG_DATA_HOME", ".local/share") / "chats"


def _folder(variable: str, default: str) -> Path:
    base = os.environ.get(variable)
    folder = (Path(base) if base else Path.home() / default) / _APPLICATION
    (folder / "chats" if variable == "XDG_DATA_HOME" else folder).mkdir(
        mode=0o700, parents=True, exist_ok=True
    )
    return folder
