"""Turns a model reference into a GGUF file on this machine."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from predictor.errors import ModelReferenceError
from predictor.models.choice import choose_model, listing
from predictor.models.gguf_split import SplitName
from predictor.models.leftovers import unfinished_folder

logger = logging.getLogger(__name__)

MAX_DEPTH = 4  # of folders searched below the one given
MODELCAR_SECONDS = 300.0  # for a container beside the server to start
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def resolve_model(
    reference: str, *, model_file: str | None = None, cache_dir: Path | None = None, progress: bool = True
) -> Path:
    """Find the GGUF file that a reference means, downloading it where needed.

    Args:
        reference: a file; a folder, such as /mnt/models; `hf://OWNER/REPOSITORY[@REVISION][:FILE or
            quantisation]`; or any address that kserve-storage knows (s3, gs, http(s), oci, ...).
        model_file: a file name or quantisation that chooses among several models.
        cache_dir: where downloads are kept; None is the hub's own cache for hf://, and a folder in
            `XDG_CACHE_HOME` for the rest.
        progress: show a progress bar where stderr is a terminal.

    Returns:
        The file to load; of a split model the first part, with all others beside it.

    Raises:
        ModelReferenceError: nothing was found, the choice isn't clear, or the download failed.
    """
    scheme = _SCHEME.match(reference)
    match scheme[1].lower() if scheme else "":
        case "":
            return _find_local(reference, model_file)
        case "file":
            return _find_local(unquote(urlsplit(reference).path), model_file)
        case "hf":
            from predictor.models.hub import HubReference, download

            return download(HubReference.parse(reference, model_file), cache_dir, progress=progress)
        case "pvc":
            raise ModelReferenceError(
                f"{reference}: a claim is mounted by Kubernetes, not downloaded; "
                "mount it and give the path, which is /mnt/models under KServe"
            )
        case _:
            return _find_in_folder(_download(reference, cache_dir), model_file)


def _find_local(reference: str, model_file: str | None) -> Path:
    if not reference.strip():
        raise ModelReferenceError(
            "the model reference is empty; give a GGUF file, a folder, or hf://OWNER/REPOSITORY"
        )
    path = Path(reference).expanduser()
    _wait_for_modelcar(path)
    if path.is_dir():
        return _find_in_folder(path, model_file)
    if not path.is_file():
        raise ModelReferenceError(_not_found(path, reference))
    if model_file is not None and model_file != path.name:
        raise ModelReferenceError(
            f"{path} is a file, so there is no {model_file!r} to choose in it; "
            "give its folder, or no model file"
        )
    if SplitName.parse(path.name) is None:
        return path
    return path.parent / choose_model(_gguf_files(path.parent, depth=0), str(path.parent), path.name).name


def _wait_for_modelcar(path: Path) -> None:
    """Wait for a model that a container of the same pod is about to link in.

    KServe sets MODEL_INIT_MODE to `async` where the model is an image (a modelcar) that runs beside us.
    """
    if os.environ.get("MODEL_INIT_MODE") != "async":
        return
    deadline = time.monotonic() + MODELCAR_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def _find_in_folder(folder: Path, model_file: str | None) -> Path:
    files = _gguf_files(folder, MAX_DEPTH)
    if not files:
        raise ModelReferenceError(f"no .gguf file in {folder} or below; found: {_entries(folder)}")
    return folder / choose_model(files, str(folder), model_file).name


def _gguf_files(folder: Path, depth: int) -> dict[str, int]:
    """GGUF files by their path below `folder`, with their sizes; hidden folders are left out."""

    def unreadable(error: OSError) -> None:
        problem = f"{error.filename} can't be read: {error.strerror}"
        if Path(error.filename) == folder:
            raise ModelReferenceError(f"{problem}; check its permissions")
        logger.warning("%s; looking for models elsewhere", problem)  # such as lost+found on a volume

    files: dict[str, int] = {}
    for current, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(current).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and len(here.parts) < depth]
        for name in names:
            path = Path(current, name)
            if name.lower().endswith(".gguf") and path.is_file():
                files[(here / name).as_posix()] = path.stat().st_size
    return files


def _not_found(path: Path, reference: str) -> str:
    message = f"model {reference} does not exist"
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), path)
    message += f"; {_models_in(folder)}"
    if re.fullmatch(r"[\w.-]+/[\w.:@-]+", reference):
        message += f"; for the Hugging Face hub, write hf://{reference}"
    return message


def _models_in(folder: Path) -> str:
    """The GGUF files in a folder itself, for a message; not what else may lie in somebody's home."""
    try:
        names = tuple(
            name for name in os.listdir(folder) if name.lower().endswith(".gguf") and name[0] != "."
        )
    except OSError as error:
        return f"{folder} can't be read ({error.strerror})"
    return f"GGUF files in {folder}: {listing(names)}" if names else f"there is no GGUF file in {folder}"


def _entries(folder: Path) -> str:
    try:
        return listing(tuple(os.listdir(folder))) or "nothing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _download(uri: str, cache_dir: Path | None) -> Path:
    """Download with kserve-storage into a folder of its own, which appears only when it is complete."""
    public = _without_secrets(uri, uri)
    cache = cache_dir or _default_cache()
    folder = cache / hashlib.sha256(uri.encode()).hexdigest()[:16]
    if folder.is_dir():
        logger.info("using the copy of %s in %s; delete the folder to download again", public, folder)
        return folder
    storage = _kserve_storage(public)
    try:
        with unfinished_folder(cache, folder.name) as unfinished:
            logger.info("downloading %s to %s", public, folder)
            _fetch(storage, uri, unfinished)
            if not _gguf_files(unfinished, MAX_DEPTH):
                raise ModelReferenceError(f"{public} has no .gguf file; found: {_entries(unfinished)}")
            _publish(unfinished, folder)
    except OSError as error:
        raise ModelReferenceError(
            f"{public} can't be stored in {cache}: {error.strerror}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return folder


def _publish(unfinished: Path, folder: Path) -> None:
    """Give a complete download its name, unless another process was faster."""
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _fetch(storage: Any, uri: str, folder: Path) -> None:
    def hide_secrets(record: logging.LogRecord) -> bool:
        record.msg, record.args = _without_secrets(record.getMessage(), uri), ()
        return True

    # kserve-storage logs the whole address, with user names and signatures.
    storage_logger = logging.getLogger("storage.initializer")
    storage_logger.addFilter(hide_secrets)
    try:
        storage.download(uri, str(folder))
    except Exception as error:  # bare exceptions, and those of five cloud libraries
        # The cause is left out: it can hold the address with its secrets.
        reason = _without_secrets(str(error) or type(error).__name__, uri)
        raise ModelReferenceError(f"{_without_secrets(uri, uri)} can't be downloaded: {reason}") from None
    finally:
        storage_logger.removeFilter(hide_secrets)


def _default_cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp"
    except RuntimeError as error:
        raise ModelReferenceError("this user has no home folder for downloads; set XDG_CACHE_HOME") from error


def _kserve_storage(uri: str) -> Any:
    try:
        return importlib.import_module("kserve_storage").Storage
    except ImportError as error:
        raise ModelReferenceError(
            f"{uri} needs kserve-storage, which can't be imported ({error}): "
            "run `pip install 'kserve-llamacpp[storage]'`, or mount the model and give its path"
        ) from error


def _without_secrets(text: str, uri: str) -> str:
    """`text` without the user, password and query string of `uri`."""
    rest = uri.partition("://")[2]
    user = rest.partition("/")[0].rpartition("@")[0]
    for secret in (user, rest.partition("?")[2]):
        if secret:
            text = text.replace(secret, "***")
    return text
