"""What a request offers that no model served here can use, such as a provider's own web search."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_MOST = 20


def log_passed_over(what: str, kinds: Sequence[str]) -> None:
    """Say once for a request which kinds of things were passed over.

    Args:
        what: they are, such as `tools`.
        kinds: as the client names them.
    """
    if kinds:
        names = ", ".join(repr(kind[:80]) for kind in sorted(set(kinds))[:_MOST])
        logger.info("%s are passed over, since only a provider can run them: %s", what, names)
