"""Fields that bodies of several protocols share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

TEMPLATE_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
"""What `chat_template_kwargs` must not set, since the request says it elsewhere or the model does."""


def _no_own_variables(value: dict[str, Any]) -> dict[str, Any]:
    taken = sorted(TEMPLATE_VARIABLES & value.keys())
    if taken:
        raise ValueError(f"{taken[0]} has a field of its own")
    return value


TemplateVariables = Annotated[dict[str, Any], AfterValidator(_no_own_variables)]
"""Variables for the chat template."""


def continues_last(messages: Sequence[Any]) -> bool:
    """Whether the last message is a text of the assistant's, which an answer goes on with."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and bool(last.get("content")) and not last.get("tool_calls")
