"""A query and a document as one sequence, for rerankers."""

from __future__ import annotations

import llama_cpp.llama_cpp as lib

from predictor.engine.llama.model import Model


def pair_tokens(model: Model, query: str, document: str) -> list[int]:
    """Token ids of a pair, as the model was trained to read it.

    With the GGUF's template named `rerank` where it has one, which holds `{query}` and `{document}`;
    otherwise with the separators of its tokenizer: `[CLS] query [SEP] document [SEP]`,
    `<s> query </s></s> document </s>`. Control tokens in the texts count as text, but with a template, whose
    words may form tokens with theirs, as in llama-server.
    """
    template = lib.llama_model_chat_template(model.handle, b"rerank")
    if template:
        # Cut before anything is filled in: the query may hold the other placeholder.
        parts = template.decode("utf-8", "replace").split("{document}")
        text = document.join(part.replace("{query}", query) for part in parts)
        return model.tokenize(text, add_special=False, parse_special=True)
    vocabulary = lib.llama_model_get_vocab(model.handle)
    start = [lib.llama_vocab_bos(vocabulary)] if lib.llama_vocab_get_add_bos(vocabulary) else []
    separator = [lib.llama_vocab_sep(vocabulary)] if lib.llama_vocab_get_add_sep(vocabulary) else []
    end = [lib.llama_vocab_eos(vocabulary)] if lib.llama_vocab_get_add_eos(vocabulary) else []
    first, second = (
        model.tokenize(text, add_special=False, parse_special=False) for text in (query, document)
    )
    return [*start, *first, *end, *separator, *second, *(end or separator)]
