"""Model references to files, folders and other addresses; those to the hub are in test_hub.py."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from predictor.errors import ModelReferenceError
from predictor.models.choice import choose_model
from predictor.models.gguf import read_header
from predictor.models.storage import resolve_model
from tests.tiny_gguf import tiny_gguf

TINY = tiny_gguf()
SPLIT = [f"big-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TINY)
    return folder


def failure(reference: str | Path, model_file: str | None = None, cache_dir: Path | None = None) -> str:
    with pytest.raises(ModelReferenceError) as caught:
        resolve_model(str(reference), model_file=model_file, cache_dir=cache_dir)
    return caught.value.message


def found(folder: Path, model_file: str | None = None) -> str:
    return resolve_model(str(folder), model_file=model_file).relative_to(folder).as_posix()


# Files


def test_a_file(model_path: Path) -> None:
    assert resolve_model(str(model_path)) == model_path
    assert resolve_model(f"file://{model_path}") == model_path
    assert resolve_model(str(model_path), model_file=model_path.name) == model_path
    assert "is a file" in failure(model_path, "other.gguf")


@pytest.mark.parametrize("mode", ["async", None])
def test_a_model_that_a_modelcar_links_in_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    models = fill(tmp_path / "car", "m.gguf")
    link = tmp_path / "models"
    if mode is None:
        monkeypatch.delenv("MODEL_INIT_MODE", raising=False)
        assert "does not exist" in failure(link)
        return
    monkeypatch.setenv("MODEL_INIT_MODE", mode)
    linking = threading.Timer(0.5, lambda: link.symlink_to(models))
    linking.start()
    assert resolve_model(str(link)) == link / "m.gguf"
    linking.join()


def test_a_modelcar_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_INIT_MODE", "async")
    monkeypatch.setattr("predictor.models.storage.MODELCAR_SECONDS", 0.3)
    assert "does not exist" in failure(tmp_path / "models")


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, "m.gguf")
    assert resolve_model("~/m.gguf") == tmp_path / "m.gguf"


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    assert f"there is no GGUF file in {tmp_path}/empty" in failure(tmp_path / "empty" / "c.gguf")
    fill(tmp_path, "a.gguf", "b.txt", ".bashrc", ".hidden.gguf", "B.GGUF")
    message = failure(tmp_path / "c.gguf")
    assert f"{tmp_path}/c.gguf does not exist" in message
    assert f"GGUF files in {tmp_path}: B.GGUF, a.gguf" in message
    assert "b.txt" not in message
    assert "hidden" not in message
    monkeypatch.chdir(tmp_path)
    assert "write hf://owner/model:Q4_K_M" in failure("owner/model:Q4_K_M")
    assert "is empty" in failure(" ")


def test_the_first_part_of_a_split_model(tmp_path: Path) -> None:
    fill(tmp_path, *SPLIT, "other.gguf")
    assert resolve_model(str(tmp_path / SPLIT[0])) == tmp_path / SPLIT[0]
    assert f"give the first one: {SPLIT[0]}" in failure(tmp_path / SPLIT[1])
    (tmp_path / SPLIT[2]).unlink()
    assert f"missing: {SPLIT[2]}; get all 3 parts" in failure(tmp_path / SPLIT[0])


# Folders


def test_a_folder_with_one_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(
        tmp_path,
        "sub/model-Q4_K_M.gguf",
        "sub/mmproj-model-f16.gguf",
        "model.imatrix.gguf",
        ".cache/old.gguf",
        "a/b/c/d/e/too-deep.gguf",
        "README.md",
    )
    (tmp_path / "broken.gguf").symlink_to("nowhere")
    with caplog.at_level(logging.INFO):
        assert found(tmp_path) == "sub/model-Q4_K_M.gguf"
    assert "it is the only model there is" in caplog.text


def test_a_folder_of_links_as_kubernetes_mounts_them(tmp_path: Path) -> None:
    fill(tmp_path, "real/model.gguf")
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "..data").symlink_to(tmp_path / "real")
    (mount / "model.gguf").symlink_to("..data/model.gguf")
    (tmp_path / "models").symlink_to(mount)
    assert found(tmp_path / "models") == "model.gguf"


def test_unreadable_folders() -> None:
    code = (
        "import logging, os, sys\nfrom predictor.models.storage import resolve_model\nlogging.basicConfig()\n"
        "if os.getuid() == 0: os.setuid(65534)\n"  # root can read everything
        "print(resolve_model(sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = fill(Path(name), "m.gguf", "lost+found/x.gguf")
        folder.chmod(0o755)
        (folder / "lost+found").chmod(0)
        command = [sys.executable, "-c", code, name]
        run = partial(subprocess.run, command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        process = run()
        folder.chmod(0)
        refused = run()
        folder.chmod(0o755)
        (folder / "lost+found").chmod(0o755)
    assert process.stdout.strip() == f"{name}/m.gguf"
    assert "lost+found can't be read: Permission denied" in process.stderr
    assert f"{name} can't be read: Permission denied; check its permissions" in refused.stderr


def test_a_folder_with_several_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.IQ4_XS.gguf", *(f"Q8_0/{part}" for part in SPLIT))
    message = failure(tmp_path)
    assert "holds 4 GGUF models; choose one by its file name or quantisation" in message
    assert "m-Q4_K_S.gguf (0.00 GB)" in message
    assert f"Q8_0/{SPLIT[0]} (0.00 GB, 3 parts)" in message
    with caplog.at_level(logging.INFO):
        assert found(tmp_path, "q4_k_m") == "m-Q4_K_M.gguf"
    assert "'q4_k_m' names it among 4" in caplog.text
    assert found(tmp_path, "m-Q4_K_S.gguf") == "m-Q4_K_S.gguf"
    assert found(tmp_path, "IQ4_XS") == "m.IQ4_XS.gguf"
    assert found(tmp_path, "Q8_0") == f"Q8_0/{SPLIT[0]}"
    assert found(tmp_path, SPLIT[0]) == f"Q8_0/{SPLIT[0]}"
    assert f"give the first one: {SPLIT[0]}" in failure(tmp_path, SPLIT[1])
    assert "fits 'Q4_K'; there are" in failure(tmp_path, "Q4_K")
    assert "fits 'Q4_K_M.'" in failure(tmp_path, "Q4_K_M.")


def test_a_choice_that_fits_two_models(tmp_path: Path) -> None:
    fill(tmp_path, "a-Q4_0.gguf", "b-Q4_0.gguf", "b-Q8_0.gguf")
    message = failure(tmp_path, "Q4_0")
    assert "fits 2 models" in message
    assert "b-Q8_0" not in message


def test_a_choice_is_no_pattern(tmp_path: Path) -> None:
    fill(tmp_path, "a-Q4_0.gguf", "b-Q8_0.gguf")
    assert "no GGUF model" in failure(tmp_path, "Q4.0")
    assert "no GGUF model" in failure(tmp_path, "../a-Q4_0.gguf")


def test_a_folder_without_models(tmp_path: Path) -> None:
    assert "found: nothing" in failure(tmp_path)
    fill(tmp_path, "model.safetensors", "mmproj.gguf")
    message = failure(tmp_path)
    assert f"no GGUF file in {tmp_path}" in message
    assert "mmproj.gguf" in message
    (tmp_path / "mmproj.gguf").unlink()
    assert "found: model.safetensors" in failure(tmp_path)


def test_a_long_listing_is_cut_off() -> None:
    with pytest.raises(ModelReferenceError, match="and 70 more"):
        choose_model({f"file-{number:03}.txt": 1 for number in range(100)}, "here", None)


# Other addresses, through kserve-storage


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server for the folder `site`."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "site").mkdir()
    handler = partial(Handler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_http_address(
    tmp_path: Path, web: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fill(tmp_path / "site", "m.gguf")
    address = web.replace("//", "//user:secret1@") + "/m.gguf?sig=secret2"
    with caplog.at_level(logging.DEBUG):
        path = resolve_model(address)
        assert read_header(path).architecture == "llama"
        (tmp_path / "site" / "m.gguf").unlink()
        assert resolve_model(address) == path
    assert path.is_relative_to(tmp_path / "cache" / "kserve-llamacpp")
    assert "secret" not in caplog.text.replace('"GET /m.gguf?sig=secret2', "")  # urllib3's own debug line
    assert "downloading http://***@127.0.0.1" in caplog.text


def test_a_failed_download_leaves_nothing(tmp_path: Path, web: str) -> None:
    message = failure(f"{web}/m.gguf?sig=secret", cache_dir=tmp_path / "cache")
    assert "HTTP resource not found" in message
    assert "secret" not in message
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "site" / "m.bin").write_bytes(b"not a model")
    message = failure(f"{web}/m.bin", cache_dir=tmp_path / "cache")
    assert message == f"{web}/m.bin has no .gguf file; found: m.bin"
    assert list((tmp_path / "cache").iterdir()) == []
    assert "can't be downloaded: Cannot recognize storage type" in failure("zip://a/b", cache_dir=tmp_path)


DOWNLOAD = """
import sys, time
from pathlib import Path
from predictor.models import storage
publish = storage._publish
def late(unfinished, folder):
    print("complete", flush=True)
    sys.stdin.readline()
    publish(unfinished, folder)
storage._publish = late
print(storage.resolve_model(sys.argv[1], cache_dir=Path(sys.argv[2])))
"""


def downloads(web: str, cache: Path, count: int) -> list[subprocess.Popen[str]]:
    """Processes that all have the whole download and wait for a line to give it its name."""
    command = [sys.executable, "-c", DOWNLOAD, f"{web}/m.gguf", str(cache)]
    start = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    processes = [start(command, cwd=Path(__file__).parents[2]) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "complete\n"
    return processes


def test_processes_that_finish_one_download_at_the_same_moment(tmp_path: Path, web: str) -> None:
    fill(tmp_path / "site", "m.gguf")
    cache = tmp_path / "cache"
    answers = [process.communicate("\n", timeout=60)[0] for process in downloads(web, cache, 3)]
    assert len(set(answers)) == 1
    assert read_header(Path(answers[0].strip())).architecture == "llama"
    assert [path.is_dir() for path in cache.iterdir()] == [True]


def test_what_killed_downloads_left_goes_and_what_living_ones_write_stays(tmp_path: Path, web: str) -> None:
    fill(tmp_path / "site", "m.gguf")
    cache = tmp_path / "cache"
    killed, living = downloads(web, cache, 2)
    killed.terminate()
    killed.communicate(timeout=20)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2
    path = resolve_model(f"{web}/m.gguf", cache_dir=cache)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2, "the result, and what is in work"
    assert living.communicate("\n", timeout=60)[0].strip() == str(path)
    assert [path.is_dir() for path in cache.iterdir()] == [True]


def test_a_cache_folder_that_can_not_be_written(tmp_path: Path, web: str) -> None:
    (tmp_path / "file").write_text("")
    assert "set XDG_CACHE_HOME" in failure(f"{web}/m.gguf", cache_dir=tmp_path / "file" / "cache")


def test_a_volume_claim() -> None:
    assert "give the path, which is /mnt/models" in failure("pvc://claim/model")


def test_without_kserve_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kserve_storage", None)
    message = failure("s3://bucket/model", cache_dir=tmp_path)
    assert message.startswith("s3://bucket/model needs kserve-storage")
    assert "pip install" in message


def test_heavy_libraries_are_imported_only_when_needed(model_path: Path) -> None:
    code = (
        "import sys\nfrom predictor.models.storage import resolve_model\n"
        "from predictor.models.gguf_split import read_parts\n"
        "read_parts(resolve_model(sys.argv[1]))\n"
        "heavy = {'huggingface_hub', 'kserve_storage', 'kserve', 'numpy', 'llama_cpp', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(model_path)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout.strip() == "[]"
