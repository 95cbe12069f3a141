"""Which models this server answers for, and whether each can be used now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from predictor.errors import ModelNotFound, NotReady, WrongTask
from predictor.generation.embedding import TextEmbedder
from predictor.generation.text import TextGenerator


class ServedModels:
    """Looks a model up by the name in a request.

    A name is known from the start; its generator is published once it is warm and withdrawn on shutdown,
    so that every protocol answers "not found" and "not ready" alike.

    Args:
        name: the model's.
        adapters: names under which it answers with an adapter; requests use one in the model's place.
        refused: told "loading" or "shutting_down" for each request that came too early or too late.
        aliases: further names of the model; answers, metrics and traces have the first.
    """

    def __init__(
        self,
        name: str,
        adapters: Sequence[str] = (),
        refused: Callable[[str], None] = lambda reason: None,
        *,
        aliases: Sequence[str] = (),
    ) -> None:
        self.created = int(time.time())
        self._name = name
        self._own_names = (name, *aliases)
        self._refused = refused
        self._closing = False
        self._generators: dict[str, TextGenerator | TextEmbedder | None] = dict.fromkeys(
            [*self._own_names, *adapters]
        )

    @property
    def names(self) -> list[str]:
        """All names, ready or not, the model's before its adapters'."""
        return list(self._generators)

    def main_name(self, name: str) -> str:
        """The name that answers and metrics have, of a name that is served."""
        return self._name if name in self._own_names else name

    def parent(self, name: str) -> str | None:
        """The model that an adapter belongs to, None for the model itself."""
        return None if name in self._own_names else self._name

    def is_ready(self, name: str) -> bool:
        """Whether requests for the name are taken."""
        return self._generators.get(name) is not None

    def is_embedder(self, name: str) -> bool:
        """Whether a model that is ready gives vectors instead of text."""
        return isinstance(self._generators.get(name), TextEmbedder)

    def context_tokens(self, name: str) -> int | None:
        """The longest prompt with its answer that a model that is ready takes, None while it isn't."""
        served = self._generators.get(name)
        return None if served is None else served.engine.max_sequence_tokens

    def capabilities(self, name: str) -> list[str] | None:
        """What a model that is ready can be asked for, None while it isn't."""
        served = self._generators.get(name)
        if isinstance(served, TextEmbedder):
            return ["rerank" if served.is_reranker else "embedding"]
        if served is None:
            return None
        return ["completion", *(served.chat_format.capabilities() if served.chat_format else ())]

    def publish(self, served: TextGenerator | TextEmbedder) -> None:
        """From now on requests go to `served`, with the adapter they name."""
        for name in self._generators:
            if name in self._own_names:
                self._generators[name] = served
            elif isinstance(served, TextGenerator):
                self._generators[name] = served.with_adapter(name)

    def withdraw_all(self) -> None:
        """From now on every request is refused, since the server is shutting down."""
        self._closing = True
        self._generators = dict.fromkeys(self._generators)

    def get(self, name: str | None) -> TextGenerator:
        """The generator for a request to `name`, the model's own where it names none; counts one refused.

        Raises:
            ModelNotFound: no such name.
            NotReady: the model is loading or the server is shutting down.
            WrongTask: the model gives vectors instead of text.
        """
        served = self._counted(name)
        if isinstance(served, TextEmbedder):
            route = "/v1/rerank" if served.is_reranker else "/v1/embeddings"
            raise WrongTask(
                f"model {served.name!r} doesn't generate text: use {route}, or start the server with "
                "--pooling none if the model can do both",
                param="model",
            )
        return served

    def embedder(self, name: str | None) -> TextEmbedder:
        """The embedding or reranking model for a request to `name`, as `get` does for text.

        Raises:
            ModelNotFound: no such name.
            NotReady: the model is loading or the server is shutting down.
            WrongTask: the model generates text.
        """
        served = self._counted(name)
        if isinstance(served, TextGenerator):
            raise WrongTask(
                f"model {served.name!r} was started to generate text: serve an embedding or reranking model, "
                "or start this one with --pooling mean, cls, last or rank",
                param="model",
            )
        return served

    def any(self, name: str | None) -> TextGenerator | TextEmbedder:
        """What answers a request to `name` that any model can answer, as `get` does for text.

        Raises:
            ModelNotFound: no such name.
            NotReady: the model is loading or the server is shutting down.
        """
        return self._counted(name)

    def _counted(self, name: str | None) -> TextGenerator | TextEmbedder:
        try:
            return self.find(name or self._name)
        except NotReady:
            self._refused("shutting_down" if self._closing else "loading")
            raise

    def find(self, name: str) -> TextGenerator | TextEmbedder:
        """What answers for `name`.

        Raises:
            ModelNotFound: no such name.
            NotReady: the model is loading or the server is shutting down.
        """
        if name not in self._generators:
            known = ", ".join(self.names)
            raise ModelNotFound(f"model {name!r} is not served here; available: {known}", param="model")
        generator = self._generators[name]
        if generator is None:
            state = "is shutting down" if self._closing else "is still loading"
            raise NotReady(f"model {name!r} {state}; try again later", retry_after=5)
        return generator
