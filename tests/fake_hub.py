"""A fake Hugging Face hub on real HTTP, because the real one can't be reached from where tests run.

It speaks the part of the hub's protocol that huggingface_hub 2.4 uses for `model_info` and
`hf_hub_download`: `GET /api/models/REPO/revision/REV`, and `HEAD` and `GET /REPO/resolve/REV/FILE` with
ranges, etags and the hub's error codes; and `GET /api/models/REPO/tree/REV`, which `snapshot_download` adds.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Repository:
    """One model repository with the single branch `main`.

    Attributes:
        files: path to content.
        gated: files need the hub's token; the listing doesn't, as on the real hub.
        private: everything needs the token, and is "not found" without it.
        claimed_sizes: sizes to list instead of the real ones.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    claimed_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


class FakeHub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: what is served, by `owner/name`.
        token: the one token that is accepted.
        cut_after: bytes after which the next download breaks off, once.
        hang_after: bytes after which downloads stand still until they are cut.
        status: answered to everything, instead of what was asked for.
        requests: method, path and Range header of every request.
        sent: content bytes sent in answers to GET.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.token = "hf_right"
        self.cut_after: int | None = None
        self.hang_after: int | None = None
        self.status: int | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> list[tuple[str, str | None]]:
        """File and Range header of every GET of a file."""
        found = (
            (RESOLVE.fullmatch(path), range_) for method, path, range_ in self.requests if method == "GET"
        )
        return [(match["file"], range_) for match, range_ in found if match]


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *args: object) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        match = API.fullmatch(path) or TREE.fullmatch(path) or RESOLVE.fullmatch(path)
        repository = self.server.repositories.get(match["repo"]) if match else None
        authorized = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if self.server.status is not None:
            self.fail(self.server.status, "Broken")
        elif match is None or repository is None or (repository.private and not authorized):
            # The real hub answers 401 to strangers, so that private names can't be guessed.
            self.fail(404 if authorized else 401, "RepoNotFound")
        elif match["revision"] not in ("main", repository.commit):
            self.fail(404, "RevisionNotFound")
        elif match.re is API:
            self.send_info(match["repo"], repository)
        elif match.re is TREE:
            self.send_tree(repository)
        elif repository.gated and not authorized:
            self.fail(403, "GatedRepo")
        elif match["file"] not in repository.files:
            self.fail(404, "EntryNotFound")
        else:
            self.send_file(repository, repository.files[match["file"]])

    def fail(self, status: int, code: str) -> None:
        self.reply(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def send_info(self, name: str, repository: Repository) -> None:
        siblings = [
            {"rfilename": file, "size": repository.claimed_sizes.get(file, len(content))}
            for file, content in repository.files.items()
        ]
        info = {"id": name, "sha": repository.commit, "siblings": siblings, "tags": [], "private": False}
        self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def send_tree(self, repository: Repository) -> None:
        tree = [
            {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha256(content).hexdigest()}
            for file, content in repository.files.items()
        ]
        self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def send_file(self, repository: Repository, content: bytes) -> None:
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(requested[1]) if requested else 0
        if requested:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(206 if requested else 200, content[start:], headers)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cut_after is not None and len(body) > self.server.cut_after:
            body, self.server.cut_after = body[: self.server.cut_after], None
            self.close_connection = True
        if self.server.hang_after is not None and len(body) > self.server.hang_after:
            self.wfile.write(body[: self.server.hang_after])
            self.wfile.flush()
            with suppress(OSError):
                self.rfile.read(1)  # until the client goes away
            return
        self.server.sent += len(body)
        with suppress(ConnectionError):  # the client may go away, when its disk is full for one
            self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that serves until the block ends."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
