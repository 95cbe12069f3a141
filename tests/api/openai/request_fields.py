"""Every field that other servers' OpenAI routes take, and what ours does with it.

The names are those of the servers' own sources in November 2026. `table` makes of them the table in
docs/request-fields.md; `python tests/api/openai/request_fields.py` writes it there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs/request-fields.md"
MARK = "<!-- The table is written by tests/api/openai/request_fields.py. -->\n"

SERVERS = {
    "OpenAI": """
        messages model prompt audio best_of echo frequency_penalty function_call functions logit_bias logprobs
        max_completion_tokens max_tokens metadata modalities n parallel_tool_calls prediction presence_penalty
        prompt_cache_key prompt_cache_retention reasoning_effort response_format safety_identifier seed
        service_tier stop store stream stream_options suffix temperature tool_choice tools top_logprobs top_p
        user verbosity web_search_options
    """,
    "vLLM": """
        messages model prompt frequency_penalty logit_bias logprobs top_logprobs max_tokens
        max_completion_tokens n presence_penalty response_format seed stop stream stream_options temperature
        top_p tools tool_choice reasoning_effort thinking_token_budget include_reasoning parallel_tool_calls
        user suffix best_of use_beam_search top_k min_p repetition_penalty watermarking length_penalty
        stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
        spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids
        allowed_token_ids bad_words echo add_generation_prompt continue_final_message add_special_tokens
        documents chat_template chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs
        priority request_id session_id return_tokens_as_token_ids return_token_ids routed_experts_prompt_start
        return_token_offsets return_prompt_text return_mm_kwargs cache_salt kv_transfer_params
        ec_transfer_params vllm_xargs repetition_detection stream_interval prompt_embeds guided_json
        guided_regex guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern
        logits_processors
    """,
    "SGLang": """
        messages model prompt best_of echo frequency_penalty logit_bias logprobs top_logprobs max_tokens
        max_completion_tokens n presence_penalty response_format seed stop stream stream_options suffix
        temperature top_p user tools tool_choice parallel_tool_calls return_hidden_states
        return_routed_experts routed_experts_start_len return_cached_tokens_details return_prompt_token_ids
        return_token_ids return_meta_info reasoning_effort reasoning task top_k min_p min_tokens json_schema
        regex ebnf repetition_penalty stop_token_ids stop_regex no_stop_trim ignore_eos
        continue_final_message skip_special_tokens lora_path session_id session_params separate_reasoning
        stream_reasoning chat_template_kwargs max_dynamic_patch min_dynamic_patch use_audio_in_video
        images_config custom_logit_processor custom_params input_ids rid extra_key cache_salt ngram_corpus_id
        priority bootstrap_host bootstrap_port bootstrap_room routed_dp_rank disagg_prefill_dp_rank
        data_parallel_rank custom_labels
    """,
    "llama.cpp": """
        messages model prompt verbose timings_per_token stream stream_options cache_prompt return_tokens
        return_progress sse_ping_interval n_predict max_completion_tokens max_tokens n_indent n_keep n_discard
        n_cmpl n n_cache_reuse t_max_predict_ms response_fields top_k top_p min_p top_n_sigma xtc_probability
        xtc_threshold typical_p temperature dynatemp_range dynatemp_exponent repeat_last_n repeat_penalty
        frequency_penalty presence_penalty dry_multiplier dry_base dry_allowed_length dry_penalty_last_n
        dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target adaptive_decay seed n_probs
        logprobs top_logprobs min_keep backend_sampling post_sampling_probs lora json_schema grammar
        grammar_lazy grammar_triggers preserved_tokens chat_format reasoning_format generation_prompt
        parse_tool_calls chat_parser continue_final_message echo reasoning_control reasoning_budget_tokens
        thinking_budget_tokens reasoning_budget_message logit_bias ignore_eos stop samplers id_slot tools
        tool_choice response_format parallel_tool_calls add_generation_prompt chat_template_kwargs
        reasoning_effort
    """,
    "TGI": """
        messages model prompt frequency_penalty logit_bias logprobs top_logprobs max_tokens n presence_penalty
        stop stream seed temperature top_p tools tool_prompt tool_choice response_format stream_options suffix
        repetition_penalty
    """,
    "Ollama": """
        messages model prompt stream stream_options max_tokens seed stop temperature frequency_penalty
        presence_penalty top_p response_format tools reasoning reasoning_effort suffix _debug_render_only
    """,
}

HONOURED, IGNORED, REFUSED = "honoured", "ignored", "refused"
CHAT, COMPLETIONS = "chat", "completions"


@dataclass(frozen=True)
class Given:
    """A field of a request.

    Attributes:
        verdict: what ours does with it.
        note: for the page.
        value: one that matters on the servers that have the field.
        harmless: for one that is refused, a value that changes nothing and is taken.
        beside: other fields that it needs.
        route: where it is tried.
        tested_here: False where the tests of another folder show that it is honoured.
    """

    verdict: str
    note: str
    value: Any
    harmless: Any = None
    beside: dict[str, Any] = field(default_factory=dict)
    route: str = CHAT
    tested_here: bool = True


def honoured(note: str, value: Any, **more: Any) -> Given:
    return Given(HONOURED, note, value, **more)


def ignored(note: str, value: Any, **more: Any) -> Given:
    return Given(IGNORED, note, value, **more)


def refused(note: str, value: Any, harmless: Any = None, **more: Any) -> Given:
    return Given(REFUSED, note, value, harmless, **more)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
LABEL = "names the request and changes no answer"
ROUTING = "belongs to how those servers share work"
NO_MEDIA = "for pictures and sound, which no message here can hold"
HINT = "a hint, passed over"
PENALTY = {"repeat_penalty": 1.1}
LOGPROBS = {"logprobs": True}

FIELDS = {
    # What is asked
    "messages": honoured("", [{"role": "user", "content": "Other"}]),
    "model": honoured("without it, the one that is served", "nosuch"),
    "prompt": honoured("text, token ids or lists of them", "Other", route=COMPLETIONS),
    "suffix": honoured(
        "for models that fill gaps; refused for others", "after", route=COMPLETIONS, tested_here=False
    ),
    "echo": honoured(
        "on completions, with `logprobs` the prompt's too; refused on chat completions",
        True,
        route=COMPLETIONS,
    ),
    "prompt_embeds": refused("send text or token ids", "AAAA", route=COMPLETIONS),
    "input_ids": refused("send them as `prompt` of completions", [1, 2]),
    "documents": refused("put their text into a message", [{"text": "a"}], []),
    "chat_template": refused("`--chat-template` when the server is started", "{{ messages }}", ""),
    "chat_template_kwargs": honoured("", {"a": 1}, tested_here=False),
    "continue_final_message": honoured("", True, tested_here=False),
    "add_generation_prompt": honoured("", False, tested_here=False),
    "add_special_tokens": refused("BOS is added where the model wants it", True),
    "truncate_prompt_tokens": refused("a prompt is never cut", 5),
    "truncation_side": ignored("without effect by itself", "left"),
    "tool_prompt": refused("put it into a system message", "Use tools"),
    "tools": honoured("", [TOOL]),
    "tool_choice": honoured("", "none", beside={"tools": [TOOL]}),
    "parallel_tool_calls": honoured("", False, beside={"tools": [TOOL]}),
    "functions": refused("use `tools`", [{"name": "f"}], []),
    "function_call": refused("use `tool_choice`", {"name": "f"}, "none"),
    "session_params": refused("send the whole conversation", {"id": "a"}, {}),
    "task": ignored("for one model's encoder, ignored by SGLang for others too", "query"),
    # Which model
    "lora": refused("name the adapter in `model`", [{"id": 0, "scale": 1.0}], []),
    "lora_path": refused("name the adapter in `model`", "adapter"),
    # How tokens are chosen
    "temperature": honoured("below 0.00001 it is greedy", 0.1),
    "top_p": honoured("", 0.5),
    "top_k": honoured("0 and -1 are all", 3),
    "min_p": honoured("", 0.2),
    "typical_p": honoured("", 0.5),
    "top_n_sigma": honoured("", 1.0),
    "xtc_probability": honoured("", 0.5),
    "xtc_threshold": honoured("", 0.2),
    "dynatemp_range": honoured("", 0.5),
    "dynatemp_exponent": honoured("", 2.0),
    "repeat_penalty": honoured("", 1.2),
    "repetition_penalty": honoured("as `repeat_penalty`: of the last `repeat_last_n` tokens", 1.2),
    "repeat_last_n": honoured("64 without it", 32),
    "frequency_penalty": honoured("", 0.5),
    "presence_penalty": honoured("", 0.5),
    "logit_bias": honoured("an object, or llama.cpp's list of pairs", {"65": 5}),
    "seed": honoured("-1 is a random one", 7),
    "ignore_eos": honoured("", True),
    "dry_multiplier": honoured("", 0.8),
    "dry_base": honoured("at least 1", 1.5),
    "dry_allowed_length": honoured("", 3),
    "dry_penalty_last_n": honoured("64 without it, -1 is all", -1),
    "dry_sequence_breakers": honoured("8 at most, of 40 bytes each", ["\n"]),
    "mirostat": honoured("0, 1 or 2; in place of all other samplers but the temperature", 2),
    "mirostat_tau": honoured("", 4.0),
    "mirostat_eta": honoured("", 0.2),
    "adaptive_target": refused("a negative value is taken", 0.5, -1),
    "adaptive_decay": ignored("without effect where `adaptive_target` is negative", 0.9),
    "samplers": refused("llama.cpp's default order is taken", ["top_k"], "edskypmxt"),
    "min_keep": refused("", 5, 0),
    "backend_sampling": refused("", True, False),
    "allowed_token_ids": refused("use `response_format`", [1, 2]),
    "bad_words": refused("use `logit_bias`", ["bad"], []),
    "use_beam_search": refused("use `n`", True, False),
    "length_penalty": ignored("without effect where there is no beam search", 1.5),
    "watermarking": refused("", True, False),
    "logits_processors": refused("", ["module.f"], []),
    "custom_logit_processor": refused("", "AAAA"),
    "custom_params": refused("", {"a": 1}, {}),
    "vllm_xargs": refused("", {"a": 1}, {}),
    # Where an answer ends
    "max_tokens": honoured("-1 is no limit, 0 reads the prompt only", 3),
    "max_completion_tokens": honoured("comes before `max_tokens`", 3),
    "n_predict": honoured("as `max_tokens`", 3),
    "min_tokens": refused("use `ignore_eos` with `max_tokens`", 5, 0),
    "stop": honoured("256 at most, with 16384 characters together; empty ones are passed over", ["END"]),
    "stop_token_ids": refused("use `stop`; the model's own end tokens always count", [5], []),
    "stop_regex": refused("use `stop`", "a+"),
    "include_stop_str_in_output": refused("", True, False),
    "no_stop_trim": refused("", True, False),
    "repetition_detection": refused("use `repeat_penalty`", {"max_pattern_size": 5}),
    "t_max_predict_ms": refused("use `max_tokens`", 100, -1),
    "n_indent": refused("", 4, 0),
    "n_keep": ignored("a context is never shifted here", 5),
    "n_discard": ignored("a context is never shifted here", 5),
    # What an answer looks like
    "response_format": honoured("llama.cpp's and TGI's forms too", {"type": "json_object"}),
    "grammar": honoured("GBNF", 'root ::= "a"'),
    "json_schema": honoured("a schema, or its text", SCHEMA),
    "structured_outputs": honoured("`json`, `json_object`, `choice`, `regex`, `grammar`", {"choice": ["a"]}),
    "guided_json": honoured("", SCHEMA),
    "guided_choice": honoured("", ["yes", "no"]),
    "guided_regex": honoured("in the syntax of Rust's `regex`", "[ab]+"),
    "guided_grammar": honoured("GBNF", 'root ::= "a"'),
    "guided_decoding_backend": ignored("there is one", "xgrammar"),
    "guided_whitespace_pattern": refused("", " ?"),
    "regex": honoured("", "[ab]+"),
    "ebnf": honoured("GBNF", 'root ::= "a"'),
    "grammar_lazy": refused("use `tools`", True, False),
    "grammar_triggers": refused("use `tools`", [{"type": "word", "value": "a"}], []),
    "preserved_tokens": ignored("llama.cpp's own, for `grammar_triggers`", ["<a>"]),
    "chat_format": refused("", 3, 0),
    "chat_parser": refused("", "a"),
    "generation_prompt": refused("", "a", ""),
    "parse_tool_calls": refused("", False, True),
    "skip_special_tokens": refused("control tokens are never text", False, True),
    "spaces_between_special_tokens": ignored("without effect where they are skipped", False),
    "modalities": refused("", ["audio"], ["text"]),
    "audio": refused("", {"voice": "a"}),
    "web_search_options": refused("", {"search_context_size": "low"}),
    "n": honoured("", 2),
    "n_cmpl": honoured("as `n`", 2),
    "best_of": refused("1 is taken", 3, 1, route=COMPLETIONS),
    # What is told beside the text
    "logprobs": honoured("", True),
    "top_logprobs": honoured("needs `logprobs`", 2, beside=LOGPROBS),
    "stream": honoured("", True),
    "stream_options": honoured(
        "passed over where nothing is streamed", {"include_usage": True}, beside={"stream": True}
    ),
    "stream_interval": ignored("how tokens are gathered into events", 4),
    "sse_ping_interval": ignored("how often a silent stream says that it lives", 5),
    "n_probs": refused("use `logprobs` and `top_logprobs`", 3, 0),
    "post_sampling_probs": refused("", True, False),
    "prompt_logprobs": refused("use `echo` with `logprobs` on completions", 1),
    "logprob_token_ids": refused("use `top_logprobs`", [5]),
    "return_tokens_as_token_ids": refused("", True, False),
    "return_token_ids": refused("", True, False),
    "return_tokens": refused("", True, False),
    "return_prompt_token_ids": refused("", True, False),
    "return_prompt_text": refused("", True, False),
    "return_hidden_states": refused("", True, False),
    "return_routed_experts": refused("", True, False),
    "response_fields": refused("", ["content"], []),
    "_debug_render_only": refused("", True, False),
    "routed_experts_prompt_start": ignored("without effect by itself", 1),
    "routed_experts_start_len": ignored("without effect by itself", 1),
    "return_token_offsets": ignored("for another route of vLLM, which ignores it here too", True),
    "return_mm_kwargs": ignored("for another route of vLLM, which ignores it here too", True),
    "return_cached_tokens_details": ignored("`usage` has the count of cached tokens", True),
    "return_meta_info": ignored("diagnostics", True),
    "verbose": ignored("diagnostics", True),
    "timings_per_token": ignored("diagnostics", True),
    "return_progress": honoured("in streams: `prompt_progress`", True, tested_here=False),
    # Thinking
    "reasoning_effort": honoured("as far as the model's template knows it", "low", tested_here=False),
    "reasoning": ignored(HINT, {"effort": "low"}),
    "include_reasoning": ignored("", False),
    "separate_reasoning": ignored("", False),
    "stream_reasoning": ignored("", False),
    "reasoning_format": ignored("", "none"),
    "reasoning_control": ignored("", True),
    "thinking_token_budget": honoured("on chat completions, as `thinking_budget`", 5, tested_here=False),
    "thinking_budget_tokens": honoured("on chat completions, as `thinking_budget`", 5, tested_here=False),
    "reasoning_budget_tokens": honoured("on chat completions, as `thinking_budget`", 5, tested_here=False),
    "reasoning_budget_message": ignored("", "enough"),
    "verbosity": ignored(HINT, "low"),
    # Labels, routes and times
    "user": ignored(LABEL, "me"),
    "metadata": ignored(LABEL, {"a": "b"}),
    "store": ignored("nothing is stored", True),
    "safety_identifier": ignored(LABEL, "me"),
    "request_id": ignored("the header `x-request-id` names a request", "a"),
    "rid": ignored("the header `x-request-id` names a request", "a"),
    "session_id": ignored(LABEL, "a"),
    "extra_key": ignored(LABEL, "a"),
    "custom_labels": ignored(LABEL, {"a": "b"}),
    "service_tier": ignored("there is one", "flex"),
    "priority": ignored("requests are admitted in the order in which they came", 5),
    "prediction": ignored("made answers faster, not others", {"type": "content", "content": "a"}),
    "ngram_corpus_id": ignored("made answers faster, not others", "a"),
    "prompt_cache_key": ignored("what was computed before is found by itself", "a"),
    "prompt_cache_retention": ignored("what was computed before is found by itself", "24h"),
    "cache_prompt": ignored("what was computed before is found by itself", False),
    "n_cache_reuse": ignored("what was computed before is found by itself", 64),
    "id_slot": ignored("what was computed before is found by itself", 0),
    "cache_salt": refused("the cache serves all clients, so that it must not seem to be private", "secret"),
    "kv_transfer_params": ignored(ROUTING, {"a": 1}),
    "ec_transfer_params": ignored(ROUTING, {"a": 1}),
    "bootstrap_host": ignored(ROUTING, "host"),
    "bootstrap_port": ignored(ROUTING, 1),
    "bootstrap_room": ignored(ROUTING, 1),
    "routed_dp_rank": ignored(ROUTING, 1),
    "disagg_prefill_dp_rank": ignored(ROUTING, 1),
    "data_parallel_rank": ignored(ROUTING, 1),
    "media_io_kwargs": ignored(NO_MEDIA, {"image": {}}),
    "mm_processor_kwargs": ignored(NO_MEDIA, {"a": 1}),
    "max_dynamic_patch": ignored(NO_MEDIA, 1),
    "min_dynamic_patch": ignored(NO_MEDIA, 1),
    "use_audio_in_video": ignored(NO_MEDIA, True),
    "images_config": ignored(NO_MEDIA, {"a": 1}),
}


def servers_with(name: str) -> list[str]:
    """The servers that take a field."""
    return [server for server, names in SERVERS.items() if name in names.split()]


def table() -> str:
    """The page's table."""
    lines = ["| Field | Taken by | Here | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {', '.join(servers_with(name))} | {given.verdict} | {given.note} |"
        for name, given in FIELDS.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + "\n" + table())
