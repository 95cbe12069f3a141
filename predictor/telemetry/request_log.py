"""One log line per request that has ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from predictor.telemetry.finished import FinishedRequest

# `configure_logging` gives this logger a queue, since its lines come from the decode thread.
logger = logging.getLogger("predictor.requests")


def log_finished(request: FinishedRequest, text: Mapping[str, str]) -> None:
    """Log the end of a request at level info, with `text` of its prompt and answer where that is wanted."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields: dict[str, str | int | float] = {
        "request_id": request.id,
        "finish_reason": request.reason,
        "prompt_tokens": request.prompt_tokens,
        "cached_tokens": request.cached_tokens,
        "completion_tokens": request.completion_tokens,
        "preemptions": request.preemptions,
        "queue_seconds": round(request.queue, 4),
        "total_seconds": round(request.total, 4),
    }
    if request.adapter is not None:
        fields["adapter"] = request.adapter
    if request.time_to_first_token is not None:
        fields["time_to_first_token_seconds"] = round(request.time_to_first_token, 4)
    logger.info("request finished", extra={"fields": {**fields, **text}})
