"""Lets calls in: who has a key, and is within the key's limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from predictor.access.keys import KeyFile
from predictor.access.limits import CallerUsage
from predictor.errors import RateLimited, Unauthenticated
from predictor.settings import Settings

_caller: ContextVar[str | None] = ContextVar("caller", default=None)


def current_caller() -> str | None:
    """The name of the API key of the call being handled, for logs; None where there is none."""
    return _caller.get()


class Gate:
    """Checks the key of every call, whatever its protocol; belongs to the event loop.

    Args:
        keys: who may call.
        requests_per_minute, max_concurrent: limits of every key that has none of its own; None for no limit.
        refused: told "unauthenticated" or "rate_limited" for each call that is turned away.
    """

    def __init__(
        self,
        keys: KeyFile,
        *,
        requests_per_minute: int | None,
        max_concurrent: int | None,
        refused: Callable[[str], None],
    ) -> None:
        self._keys = keys
        self._requests_per_minute = requests_per_minute
        self._max_concurrent = max_concurrent
        self._refused = refused
        # By name, so that a key that is exchanged keeps its owner's count.
        self._usage: defaultdict[str, CallerUsage] = defaultdict(CallerUsage)

    @contextmanager
    def enter(self, authorization: str | None, api_key: str | None = None) -> Iterator[None]:
        """A call, from its first to its last byte.

        Args:
            authorization: the header of that name, `Bearer KEY`; None where the call has none.
            api_key: the header `x-api-key`, Anthropic's, which counts where the other has no key.

        Raises:
            Unauthenticated: no key, or none of ours.
            RateLimited: the key's limit is reached.
        """
        usage, name = self._begin(_presented(authorization) or api_key or "")
        token = _caller.set(name)
        try:
            yield
        finally:
            usage.end()
            _caller.reset(token)

    def _begin(self, presented: str) -> tuple[CallerUsage, str]:
        try:
            if not presented:
                raise Unauthenticated(
                    "this server needs an API key: send the header Authorization: Bearer KEY, "
                    "or x-api-key: KEY"
                )
            key = self._keys.find(presented)
            if key is None:
                raise Unauthenticated("the API key is not one of this server's")
            usage = self._usage[key.name]
            usage.begin(
                key.requests_per_minute or self._requests_per_minute,
                key.max_concurrent or self._max_concurrent,
            )
        except Unauthenticated:
            self._refused("unauthenticated")
            raise
        except RateLimited:
            self._refused("rate_limited")
            raise
        return usage, key.name


def _presented(authorization: str | None) -> str:
    """The key in the header `Authorization`, "" where there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def gate_of(settings: Settings, refused: Callable[[str], None]) -> Gate | None:
    """The gate that the settings ask for; None where everybody may call.

    Raises:
        KeyFileError: the key file can't be used.
    """
    if settings.api_key_file is None:
        return None
    return Gate(
        KeyFile(settings.api_key_file),
        requests_per_minute=settings.key_requests_per_minute,
        max_concurrent=settings.key_max_concurrent,
        refused=refused,
    )
