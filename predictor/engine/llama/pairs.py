"""A query and a document as one sequence, for rerankers."""

from __future__ import annotations

import re

import llama_cpp.llama_cpp as lib

from predictor.engine.llama.model import Model
from predictor.engine.special_tokens import Segment


def pair_tokens(model: Model, query: str, document: str) -> list[int]:
    """Token ids of a pair, as the model was trained to read it.

    With the GGUF's template named `rerank` where it has one, which holds `{query}` and `{document}`;
    otherwise with the separators of its tokenizer: `[CLS] query [SEP] document [SEP]`,
    `<s> query </s></s> document </s>`. Control tokens in the texts count as text.
    """
    template = lib.llama_model_chat_template(model.handle, b"rerank")
    if template:
        return model.tokenize_segments(
            filled(template.decode("utf-8", "replace"), query, document), add_special=False
        )
    vocabulary = lib.llama_model_get_vocab(model.handle)
    start = [lib.llama_vocab_bos(vocabulary)] if lib.llama_vocab_get_add_bos(vocabulary) else []
    separator = [lib.llama_vocab_sep(vocabulary)] if lib.llama_vocab_get_add_sep(vocabulary) else []
    end = [lib.llama_vocab_eos(vocabulary)] if lib.llama_vocab_get_add_eos(vocabulary) else []
    first, second = (
        model.tokenize_segments([Segment(text, False)], add_special=False) for text in (query, document)
    )
    return [*start, *first, *end, *separator, *second, *(end or separator)]


def filled(template: str, query: str, document: str) -> list[Segment]:
    """A template's own text with a query and a document in their places."""
    values = {"{query}": query, "{document}": document}
    parts = re.split(r"(\{query\}|\{document\})", template)
    return [Segment(values.get(part, part), part not in values) for part in parts]
