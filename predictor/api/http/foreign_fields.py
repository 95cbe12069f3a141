"""Fields of other servers that would change the answer and are not supported here.

Clients send more fields than any one server knows. Most of them label, route or time a request, and are
ignored. Those here would give another answer on the server they were made for, so a request in which one has
an effect is refused, with what to do instead. The page docs/request-fields.md lists all fields, one by one.

Sources: vLLM's and SGLang's `entrypoints/openai` protocol files, llama.cpp's `tools/server`, TGI's OpenAPI
document, Ollama's `openai` package, OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predictor.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ForeignField:
    """A field that is refused where it has an effect.

    Attributes:
        advice: what to do instead.
        without_effect: values that leave the answer as it is; null does always.
        negative_is_off: whether any number below 0 leaves it as it is.
    """

    advice: str
    without_effect: tuple[Any, ...] = (False, 0, "", [], {})
    negative_is_off: bool = False

    def has_effect(self, value: Any) -> bool:
        """Whether the value would change the answer; 0 and false mean the same where either means nothing."""
        if value is None or value in self.without_effect:
            return False
        return not (self.negative_is_off and isinstance(value, int | float) and value < 0)


_LEAVE_OUT = "leave it out"
_OTHERS = "leave it out, and use temperature, top_k, top_p, min_p, typical_p, top_n_sigma or xtc_probability"
_DEFAULT_ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
_BOUND = "leave it out, and bound the answer with max_tokens"
_TOKENS = "give the text to stop at in stop"
_SHAPE = "put the shape that you want into response_format"
_RETURNED = "leave it out; logprobs has the tokens of an answer"

FOREIGN_FIELDS: Mapping[str, ForeignField] = {
    # Which tokens are chosen
    "adaptive_target": ForeignField(_OTHERS, (), negative_is_off=True),
    "allowed_token_ids": ForeignField("leave it out, and hold the answer to a form with response_format"),
    "backend_sampling": ForeignField(_LEAVE_OUT),
    "bad_words": ForeignField("forbid their tokens with logit_bias"),
    "custom_logit_processor": ForeignField(_LEAVE_OUT),
    "custom_params": ForeignField(_LEAVE_OUT),
    "logits_processors": ForeignField(_LEAVE_OUT),
    "min_keep": ForeignField(_OTHERS, (0, 1)),
    "samplers": ForeignField(
        "leave it out: the order is llama.cpp's own", ("edskypmxt", list(_DEFAULT_ORDER), "", [])
    ),
    "use_beam_search": ForeignField("leave it out, and ask for several answers with n"),
    "vllm_xargs": ForeignField(_LEAVE_OUT),
    "watermark": ForeignField(_LEAVE_OUT),
    "watermarking": ForeignField(_LEAVE_OUT),
    # Where an answer ends
    "include_stop_str_in_output": ForeignField("leave it out, and add the stop string yourself"),
    "min_tokens": ForeignField("leave it out, or send ignore_eos with max_tokens"),
    "n_indent": ForeignField(_LEAVE_OUT),
    "no_stop_trim": ForeignField("leave it out, and add the stop string yourself"),
    "repetition_detection": ForeignField("leave it out, and use repeat_penalty"),
    "stop_regex": ForeignField(_TOKENS),
    "stop_token_ids": ForeignField(f"{_TOKENS}; the model's own end tokens always end an answer"),
    "t_max_predict_ms": ForeignField(_BOUND, (0,), negative_is_off=True),
    # What the model sees
    "add_special_tokens": ForeignField("leave it out: the model's BOS token is added where it wants one", ()),
    "chat_template": ForeignField("start the server with --chat-template FILE"),
    "echo": ForeignField("put the messages before the answer yourself, or use echo on /v1/completions"),
    "documents": ForeignField("put their text into a message"),
    "input_ids": ForeignField("send them as the prompt of /v1/completions"),
    "prompt_embeds": ForeignField("send the prompt as text or as token ids"),
    "session_params": ForeignField(
        "send the whole conversation; what was computed before is found by itself"
    ),
    "tool_prompt": ForeignField("put it into a system message"),
    "truncate": ForeignField("shorten the prompt yourself: it is never cut here", (0,)),
    "truncate_prompt_tokens": ForeignField("shorten the prompt yourself: it is never cut here", ()),
    # Which model answers
    "lora": ForeignField("start the server with --lora and name the adapter as the model"),
    "lora_path": ForeignField("start the server with --lora and name the adapter as the model"),
    # The form of an answer
    "chat_format": ForeignField(_LEAVE_OUT, (0,)),
    "chat_parser": ForeignField(_LEAVE_OUT),
    "generation_prompt": ForeignField(_LEAVE_OUT),
    "grammar_lazy": ForeignField("leave it out, or use tools"),
    "grammar_triggers": ForeignField("leave it out, or use tools"),
    "guided_choice": ForeignField(_SHAPE, ()),
    "guided_grammar": ForeignField(_SHAPE),
    "guided_json": ForeignField(_SHAPE, ()),
    "guided_json_object": ForeignField(_SHAPE),
    "guided_regex": ForeignField(_SHAPE),
    "guided_whitespace_pattern": ForeignField("leave it out"),
    "json_schema": ForeignField(_SHAPE, ()),
    "parse_tool_calls": ForeignField("leave it out, or leave out tools", (True,)),
    "skip_special_tokens": ForeignField("leave it out: control tokens are never part of the text", (True,)),
    "structured_outputs": ForeignField(_SHAPE),
    # More in the answer than its text
    "_debug_render_only": ForeignField(_LEAVE_OUT),
    "decoder_input_details": ForeignField(_LEAVE_OUT),
    "logprob_token_ids": ForeignField("ask for top_logprobs"),
    "n_probs": ForeignField("ask for logprobs and top_logprobs"),
    "post_sampling_probs": ForeignField("leave it out: log-probabilities are the model's own"),
    "prompt_logprobs": ForeignField("use echo with logprobs on /v1/completions", ()),
    "response_fields": ForeignField("leave it out, and pick the fields yourself"),
    "return_full_text": ForeignField("use echo on /v1/completions"),
    "return_hidden_states": ForeignField("leave it out, or serve an embedding model"),
    "return_prompt_text": ForeignField(_LEAVE_OUT),
    "return_prompt_token_ids": ForeignField(_RETURNED),
    "return_routed_experts": ForeignField(_LEAVE_OUT),
    "return_token_ids": ForeignField(_RETURNED),
    "return_tokens": ForeignField(_RETURNED),
    "return_tokens_as_token_ids": ForeignField(_RETURNED),
    "top_n_tokens": ForeignField("ask for top_logprobs"),
    # A protection that isn't there must not seem to be
    "cache_salt": ForeignField("the cache of prefixes serves all clients: give each its own server instead"),
}


def refuse_foreign(fields: Mapping[str, Any]) -> None:
    """Refuse fields that would change the answer on the server they were made for.

    Args:
        fields: those of a request that it doesn't declare, by name; their values are what JSON can hold.

    Raises:
        InvalidRequest: one of them has an effect that isn't supported here.
    """
    for name, field in FOREIGN_FIELDS.items():
        if name in fields and field.has_effect(fields[name]):
            raise InvalidRequest(f"{name} is not supported: {field.advice}", param=name)
