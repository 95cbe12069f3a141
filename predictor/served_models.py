"""Which models this server answers for, and whether each can be used now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from predictor.errors import ModelNotFound, NotReady
from predictor.text_generation import TextGenerator


class ServedModels:
    """Looks a model up by the name in a request.

    A name is known from the start; its generator is published once it is warm and withdrawn on shutdown,
    so that every protocol answers "not found" and "not ready" alike.

    Args:
        name: the model's.
        adapters: names under which it answers with an adapter; requests use one in the model's place.
        refused: told "loading" or "shutting_down" for each request that came too early or too late.
    """

    def __init__(
        self,
        name: str,
        adapters: Sequence[str] = (),
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.created = int(time.time())
        self._name = name
        self._refused = refused
        self._closing = False
        self._generators: dict[str, TextGenerator | None] = dict.fromkeys([name, *adapters])

    @property
    def names(self) -> list[str]:
        """All names, ready or not, the model's before its adapters'."""
        return list(self._generators)

    def parent(self, name: str) -> str | None:
        """The model that an adapter belongs to, None for the model itself."""
        return None if name == self._name else self._name

    def is_ready(self, name: str) -> bool:
        """Whether `get` would return a generator."""
        return self._generators.get(name) is not None

    def publish(self, generator: TextGenerator) -> None:
        """From now on requests go to `generator`, with the adapter they name."""
        for name in self._generators:
            adapted = generator if name == self._name else generator.with_adapter(name)
            self._generators[name] = adapted

    def withdraw_all(self) -> None:
        """From now on every request is refused, since the server is shutting down."""
        self._closing = True
        self._generators = dict.fromkeys(self._generators)

    def get(self, name: str) -> TextGenerator:
        """The generator for a request to `name`; counts one that is refused.

        Raises:
            ModelNotFound: no such name.
            NotReady: the model is loading or the server is shutting down.
        """
        try:
            return self.find(name)
        except NotReady:
            self._refused("shutting_down" if self._closing else "loading")
            raise

    def find(self, name: str) -> TextGenerator:
        """The generator for `name`.

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
