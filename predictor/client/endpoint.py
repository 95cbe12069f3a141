"""Where an OpenAI-compatible server is and how it is addressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from predictor.errors import PredictorError

CONNECT_SECONDS = 10


class ClientError(PredictorError):
    """The server can't be used as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI API.

    Attributes:
        origin: scheme, host and port.
        prefix: path under which its routes are, such as "/v1".
        headers: sent with every request.
    """

    origin: str
    prefix: str
    headers: Mapping[str, str]

    @staticmethod
    def at(url: str, api_key: str | None = None) -> Endpoint:
        """The API at `url`: the server's address, or an API's base URL that ends with /v1.

        Raises:
            ClientError: it is no HTTP address.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ClientError(f"{url!r} is no address of a server; give one such as http://localhost:8080")
        path = parts.path.rstrip("/")
        prefix = path if path.endswith("/v1") else f"{path}/v1"
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        return Endpoint(f"{parts.scheme}://{parts.netloc}", prefix, headers)

    @property
    def url(self) -> str:
        """The API's base URL."""
        return self.origin + self.prefix

    def model(self, wanted: str | None) -> str:
        """The model to ask for: the wanted one, else the first that the server lists.

        Raises:
            ClientError: the server can't be reached, refuses, or doesn't serve it.
        """
        names = self.models()
        if wanted is not None and wanted not in names:
            raise ClientError(f"{self.url} does not serve {wanted!r}; it serves {', '.join(names)}")
        return wanted or names[0]

    def models(self) -> list[str]:
        """The models that the server lists, at least one.

        Raises:
            ClientError: the server can't be reached or refuses.
        """
        import httpx

        try:
            answer = httpx.get(f"{self.url}/models", headers=dict(self.headers), timeout=CONNECT_SECONDS)
        except httpx.HTTPError as error:
            raise ClientError(f"{self.url} can't be reached: {error}") from None
        if answer.status_code != 200:
            raise ClientError(refusal(answer.status_code, answer.content))
        try:
            names = [str(model["id"]) for model in answer.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise ClientError(f"{self.url}/models gives no list of models: is it an OpenAI API?") from None
        if not names:
            raise ClientError(f"{self.url} serves no model")
        return names


def refusal(status: int, body: bytes) -> str:
    """What an answer that is no success says, in the server's own words where it has any."""
    import orjson

    text = body.decode(errors="replace")[:300]
    try:
        error: Any = orjson.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    hint = "; give the key in LLAMACPP_API_KEY" if status in (401, 403) else ""
    return f"the server answered {status}: {text}{hint}"
