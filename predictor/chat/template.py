"""Rendering of a model's own chat template.

A template comes with the model file and is therefore untrusted: it is rendered in Jinja's immutable sandbox.
The names and filters a template may use follow Hugging Face's `apply_chat_template`. What it renders is
untrusted too: the prompt says which of its text the template wrote and which came with the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from predictor.chat.budget import check_length, start_budget
from predictor.chat.provenance import Prompt, joined, own, traced
from predictor.chat.sandbox import RefusedByTemplateError, TemplateSandbox
from predictor.errors import InvalidRequest, StartupError

# Some templates build control tokens of a message's role, such as <|user|>. Any other role is text.
ROLES = frozenset(
    {"assistant", "developer", "function", "ipython", "model", "system", "tool", "tool_response", "user"}
)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja source, from the GGUF or from a file.
        bos_token: text of the model's begin-of-sequence token, empty where it has none.
        eos_token: text of the model's end-of-sequence token, empty where it has none.

    Raises:
        StartupError: the template can't be compiled.
    """

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        try:
            self._template = TemplateSandbox().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise _broken(f"line {error.lineno}: {error.message}") from error
        except Exception as error:  # CPython too refuses some templates, such as deeply nested ones.
            raise _broken(str(error)) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> Prompt:
        """The prompt for a conversation.

        Every text that comes in counts as the user's, but for known roles and what is `own` already.

        Args:
            messages: as this template takes them; see `predictor.chat.adaptation`.
            tools: OpenAI tool definitions; some templates want an empty list where there are none.
            add_generation_prompt: end with the opening of the assistant's next message.
            extra: further variables for the template.

        Raises:
            InvalidRequest: the template refuses the conversation or fails on it.
        """
        try:
            variables = {
                "messages": [_traced_message(message) for message in messages],
                "tools": None if tools is None else traced(list(tools)),
                "add_generation_prompt": add_generation_prompt,
                "bos_token": self.bos_token,
                "eos_token": self.eos_token,
                **{name: traced(value) for name, value in extra.items()},
            }
            text = self._run(variables)
            text.encode()
            return Prompt.of(text)
        except UnicodeEncodeError as error:
            raise _invalid("messages must be valid Unicode text, without lone surrogates") from error
        except RefusedByTemplateError as error:
            raise _invalid(f"the model's chat template refuses these messages: {error}") from error
        except Exception as error:  # Anything at all can happen in code that came with a model.
            raise _invalid(f"the model's chat template fails on these messages: {error}") from error

    def writes_bos(self, prompt: Prompt) -> bool:
        """Whether a rendered prompt already starts with the BOS token."""
        return bool(self.bos_token) and prompt.starts_with(self.bos_token)

    def _run(self, variables: dict[str, Any]) -> str:
        start_budget()
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(variables):
            size += len(piece)
            check_length(size)
            pieces.append(piece)
        return joined(pieces)


def _traced_message(message: Mapping[str, Any]) -> Any:
    role = message["role"]
    return traced({**message, "role": own(role)} if role in ROLES else dict(message))


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="messages")


def _broken(reason: str) -> StartupError:
    return StartupError(
        f"the model's chat template can't be compiled ({reason}); pass another with --chat-template FILE"
    )
