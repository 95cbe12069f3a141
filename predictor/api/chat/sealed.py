"""Thoughts as clients carry them that must not show them, in a form that only comes back here.

OpenAI's `encrypted_content` and Anthropic's `signature` are opaque to clients. Nothing here is secret, since
thoughts are shown to whoever asks for them: the form only says whose it is.
"""

from __future__ import annotations

import base64
import binascii

_MARK = "kserve-llamacpp:"


def seal(thought: str) -> str:
    """The thought in letters and digits."""
    return _MARK + base64.b64encode(thought.encode()).decode()


def unseal(text: object) -> str | None:
    """The thought in what `seal` made, None in what another server did."""
    if not isinstance(text, str) or not text.startswith(_MARK):
        return None
    try:
        return base64.b64decode(text.removeprefix(_MARK), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
