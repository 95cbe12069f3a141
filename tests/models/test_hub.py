"""Model references to the hub, against a fake one on real HTTP.

Each call is a process of its own, because huggingface_hub reads its environment on import.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.errors import ModelReferenceError
from predictor.models.gguf import read_header
from predictor.models.hub import HubReference
from predictor.models.leftovers import sweep_hub
from tests.fake_hub import FakeHub, Repository, running_hub
from tests.tiny_gguf import tiny_gguf

TINY = tiny_gguf()
SPLIT = [f"big-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]

RESOLVE = """
import logging, resource, signal, sys
from pathlib import Path
from predictor.errors import ModelReferenceError
from predictor.models.storage import resolve_model
logging.basicConfig(level=logging.DEBUG)
reference, model_file, file_limit = sys.argv[1:]
if file_limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_limit), resource.RLIM_INFINITY))
try:
    print(resolve_model(reference, model_file=model_file or None, progress=False))
except ModelReferenceError as error:
    print(error.message)
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


def resolve_hub(
    tmp_path: Path,
    hub_url: str,
    reference: str,
    model_file: str = "",
    file_limit: str = "",
    **environment: str,
) -> tuple[str, str]:
    """What was found or refused, and everything that was logged."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", **environment}
    process = subprocess.run(
        [sys.executable, "-c", RESOLVE, reference, model_file, file_limit],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip(), process.stderr


def test_hub_downloads_only_what_is_chosen(tmp_path: Path, hub: FakeHub) -> None:
    names = ["README.md", "m-Q4_K_M.gguf", "m-F16.gguf", *SPLIT]
    hub.repositories["owner/m-GGUF"] = Repository({name: TINY + name.encode() for name in names})
    path, log = resolve_hub(tmp_path, hub.url, "hf://owner/m-GGUF:q4_k_m")
    assert read_header(Path(path)).architecture == "llama"
    assert Path(path).read_bytes() == TINY + b"m-Q4_K_M.gguf"
    assert hub.downloads() == [("m-Q4_K_M.gguf", None)]
    assert "names it among 3" in log
    again, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m-GGUF@main", "m-Q4_K_M.gguf")
    assert (again, len(hub.downloads())) == (path, 1)


def test_hub_downloads_all_parts_of_a_split(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/m"] = Repository({f"Q8/{name}": TINY + name.encode() for name in SPLIT})
    path, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert Path(path).name == SPLIT[0]
    assert sorted(file.name for file in Path(path).parent.iterdir()) == SPLIT
    assert sorted(name for name, _ in hub.downloads()) == [f"Q8/{name}" for name in SPLIT]


def test_hub_resumes_a_broken_download(tmp_path: Path, hub: FakeHub) -> None:
    content = TINY + os.urandom(15_000_000)
    hub.repositories["owner/m"] = Repository({"m.gguf": content})
    hub.cut_after = 12_000_000
    path, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert Path(path).read_bytes() == content
    chunk = 10 * 2**20  # huggingface_hub writes whole chunks
    assert hub.downloads() == [("m.gguf", None), ("m.gguf", f"bytes={chunk}-")]
    assert hub.sent < 12_000_000 + len(content) - chunk + 10_000


def test_hub_asks_to_choose(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/m"] = Repository({"m-Q4_0.gguf": TINY, "m-Q8_0.gguf": TINY})
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert "holds 2 GGUF models; choose one" in answer
    assert "m-Q8_0.gguf (0.00 GB)" in answer
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf://owner/none", "was not found: check its name, or if it is private, set HF_TOKEN"),
        ("hf://owner/private", "was not found: check its name, or if it is private, set HF_TOKEN"),
        ("hf://owner/gated", "is gated: accept its terms on the hub and set HF_TOKEN"),
        ("hf://owner/gated@v2", "has no revision 'v2'"),
        ("hf://owner/pytorch", "no GGUF file in hub repository owner/pytorch at main; found: model.bin"),
        ("hf://owner/escaping", "can't be downloaded: "),
        ("hf://owner/absolute", "can't be downloaded: "),
        ("hf://owner/huge", "needs 9000000.00 GB more"),
        ("hf://owner/--", "can't be downloaded: "),
    ],
)
def test_hub_refusals(tmp_path: Path, hub: FakeHub, reference: str, said: str) -> None:
    hub.repositories |= {
        "owner/private": Repository({"m.gguf": TINY}, private=True),
        "owner/gated": Repository({"m.gguf": TINY}, gated=True),
        "owner/pytorch": Repository({"model.bin": b""}),
        "owner/escaping": Repository({"../../../m.gguf": TINY}),
        "owner/absolute": Repository({"/m.gguf": TINY}),
        "owner/huge": Repository({"m.gguf": TINY}, claimed_sizes={"m.gguf": 9 * 10**15}),
    }
    answer, _ = resolve_hub(tmp_path, hub.url, reference)
    assert said in answer
    assert not list(tmp_path.rglob("m.gguf"))


def test_hub_token_from_the_environment(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/private"] = Repository({"m.gguf": TINY}, private=True)
    hub.token = "hf_right_secret"
    path, log = resolve_hub(tmp_path, hub.url, "hf://owner/private", HF_TOKEN=hub.token)
    assert path.endswith("m.gguf")
    assert hub.token not in log
    answer, log = resolve_hub(tmp_path / "2", hub.url, "hf://owner/private", HF_TOKEN="hf_wrong_secret")
    assert "give the account of HF_TOKEN access to it" in answer
    assert "hf_wrong_secret" not in answer + log


def test_hub_disk_full(tmp_path: Path, hub: FakeHub) -> None:
    # A limit on the file size is a real failure of write() that needs no full disk.
    hub.repositories["owner/m"] = Repository({"m.gguf": TINY + bytes(200_000)})
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m", file_limit="100000")
    assert f"no space left while downloading owner/m at main ({os.strerror(errno.EFBIG)})" in answer


def test_hub_cache_that_can_not_be_written(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/m"] = Repository({"m.gguf": TINY})
    (tmp_path / "hf").write_text("a file where the folder should be")
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert "can't be stored" in answer
    assert "set HF_HOME" in answer


def test_hub_offline(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/m"] = Repository({"m-Q4_0.gguf": TINY, "m-Q8_0.gguf": TINY + b"8"})
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m:Q4_0", HF_HUB_OFFLINE="1")
    assert answer.startswith(
        "HF_HUB_OFFLINE is set and owner/m at main is not in the cache; mount a GGUF file"
    )
    assert hub.requests == []
    path, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m:Q4_0")
    requests = len(hub.requests)
    cached, log = resolve_hub(tmp_path, hub.url, "hf://owner/m:Q4_0", HF_HUB_OFFLINE="1")
    assert (cached, len(hub.requests)) == (path, requests)
    assert "using the cache" in log
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m:Q8_0", HF_HUB_OFFLINE="1")
    assert "no GGUF model in the cache of owner/m at main fits 'Q8_0'" in answer


def test_hub_offline_with_a_prefilled_cache(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/m"] = Repository({"m-Q4_0.gguf": TINY, "m-Q8_0.gguf": TINY + b"8"})
    code = "import huggingface_hub as h; print(h.snapshot_download('owner/m', allow_patterns='*Q8*'))"
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    path, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m", HF_HUB_OFFLINE="1")
    assert Path(path).read_bytes() == TINY + b"8"


def test_hub_without_network(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["owner/m"] = Repository({"m.gguf": TINY})
    path, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    nowhere = "http://127.0.0.1:1"
    cached, log = resolve_hub(tmp_path, nowhere, "hf://owner/m")
    assert cached == path
    assert "the hub can't be reached" in log
    answer, _ = resolve_hub(tmp_path / "2", nowhere, "hf://owner/m")
    assert f"the hub at {nowhere} can't be reached (ConnectError: " in answer
    assert "set HF_ENDPOINT to a mirror" in answer


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_cannot_serve_now_is_as_good_as_none(tmp_path: Path, hub: FakeHub, status: int) -> None:
    hub.repositories["owner/m"] = Repository({"m.gguf": TINY})
    hub.status = status
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert f"the hub answered {status} for owner/m at main" in answer
    assert "is not in the cache" in answer
    hub.status = None
    path, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    hub.status = status
    cached, log = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert cached == path
    assert f"answered {status}" in log


def test_a_hub_that_refuses_is_not_got_around(tmp_path: Path, hub: FakeHub) -> None:
    """Who may not read a model any more is not served an old copy without a word."""
    hub.repositories["owner/m"] = Repository({"m.gguf": TINY})
    resolve_hub(tmp_path, hub.url, "hf://owner/m")
    hub.status = 403
    answer, _ = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert "refused access" in answer or "gated" in answer


def test_what_killed_downloads_left_is_deleted_by_the_next(tmp_path: Path, hub: FakeHub) -> None:
    content = TINY + os.urandom(15_000_000)
    hub.repositories["owner/m"] = Repository({"m.gguf": content})
    hub.hang_after = 12_000_000
    env = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", RESOLVE, "hf://owner/m", "", ""]

    def left() -> list[Path]:
        return [file for file in tmp_path.rglob("*.incomplete") if file.stat().st_size > 10_000_000]

    for number in range(1, 3):
        process = subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2])
        until = time.monotonic() + 60
        while len(left()) < number and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
    assert len(left()) == 2
    living = left()[0]
    for file in left():
        os.utime(file, (time.time() - 3600,) * 2)
    hub.hang_after = None
    lock = next((tmp_path / "hf").rglob("*.lock"))
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sweep_hub(lock.parents[2], lock.parent.name)
        assert living.exists(), "another process is downloading it"
    path, log = resolve_hub(tmp_path, hub.url, "hf://owner/m")
    assert Path(path).read_bytes() == content
    assert not list(tmp_path.rglob("*.incomplete"))
    assert "left behind" in log


def test_hub_references() -> None:
    parse = HubReference.parse
    assert parse("hf://o/r", None) == HubReference("o/r", "main", None)
    assert parse("hf://o/r.1@v1:a/b.gguf", None) == HubReference("o/r.1", "v1", "a/b.gguf")
    assert parse("hf://o/r@refs/pr/1", "Q4_0") == HubReference("o/r", "refs/pr/1", "Q4_0")
    for wrong in (
        "hf://",
        "hf://o",
        "hf://o/r/f.gguf",
        "hf://o/r:",
        "hf://o/r@",
        "hf://o/r@a@b",
        "hf://o/ r",
    ):
        with pytest.raises(ModelReferenceError, match="write hf://OWNER/REPOSITORY"):
            parse(wrong, None)
    with pytest.raises(ModelReferenceError, match="give only one"):
        parse("hf://o/r:Q4_0", "Q8_0")
