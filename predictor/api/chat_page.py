"""The chat page of `--ui`: a few static files, and the rules that the browser holds them to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

FOLDER = "/ui"
PAGE = "index.html"
_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}

# Nothing from elsewhere, nothing inline, no frames; and with trusted types no script of ours can turn text
# into HTML either, so that what a model writes stays text.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class HtmlRoute(Route):
    """A route for clients that name HTML among what they accept; others go to the next route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See starlette's Route."""
        if not any(name == b"accept" and b"text/html" in value for name, value in scope.get("headers", ())):
            return Match.NONE, {}
        return super().matches(scope)


def install_page(app: Starlette) -> None:
    """Serve the page at `/` to browsers, and its parts under `/ui/`.

    Whoever asks `/` without naming HTML, as probes and KServe's clients do, still gets KServe's answer.
    """
    for path, file in page_files(files("predictor.api").joinpath("static")):
        kind = _TYPES.get(path.rpartition(".")[2])
        if kind is None:
            continue
        content, headers = file.read_bytes(), {**SECURITY_HEADERS, "content-type": f"{kind}; charset=utf-8"}
        if path == PAGE:
            headers["vary"] = "accept"
            app.router.routes.append(HtmlRoute("/", _serve(content, headers)))
        else:
            app.router.routes.append(Route(f"{FOLDER}/{path}", _serve(content, headers)))


def page_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Every file below a folder, with its path from there."""
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            yield from page_files(entry, f"{path}/")
        else:
            yield path, entry


def _serve(content: bytes, headers: dict[str, str]) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return Response(content, headers=headers)

    return serve
