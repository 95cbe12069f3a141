"""Server-sent events as bytes.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def sse(payload: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event with a JSON object.

    Args:
        payload: the object.
        name: of the event, for protocols whose events have one.
    """
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return head + b"data: " + orjson.dumps(payload) + b"\n\n"
