"""Models from the Hugging Face hub, or a server that speaks its protocol (`HF_ENDPOINT`).

huggingface_hub does the transfer, the cache, the progress bar and the token (`HF_TOKEN`). A connection that
breaks is resumed where it broke; a process that ends starts the unfinished file again, and what it left is
deleted by the next that downloads.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from predictor.errors import ModelReferenceError
from predictor.models.choice import Choice, choose_model, is_model_file
from predictor.models.leftovers import sweep_hub

logger = logging.getLogger(__name__)

_REFERENCE = re.compile(
    r"hf://(?P<repository>[^/:@\s]+/[^/:@\s]+)(?:@(?P<revision>[^:@\s]+))?(?::(?P<wanted>\S+))?"
)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class HubReference:
    """A parsed `hf://owner/repository[@revision][:file or quantisation]`."""

    repository: str
    revision: str
    wanted: str | None

    @classmethod
    def parse(cls, reference: str, model_file: str | None) -> HubReference:
        """Parse a reference; `model_file` chooses like the part after the colon.

        Raises:
            ModelReferenceError: it has another form, or the model is chosen twice.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise ModelReferenceError(
                f"{reference!r} is not a hub reference; write hf://OWNER/REPOSITORY, "
                "hf://OWNER/REPOSITORY:Q4_K_M, or hf://OWNER/REPOSITORY@REVISION:FILE.gguf"
            )
        wanted = match["wanted"]
        if wanted and model_file and wanted != model_file:
            raise ModelReferenceError(
                f"{reference} already chooses {wanted!r}, but the model file is set to {model_file!r}; "
                "give only one"
            )
        return cls(match["repository"], match["revision"] or "main", wanted or model_file)

    def __str__(self) -> str:
        return f"{self.repository} at {self.revision}"


def download(reference: HubReference, cache_dir: Path | None, *, progress: bool) -> Path:
    """Download the model that is meant, with all parts of a split one, and nothing else.

    Args:
        reference: the repository and the choice in it.
        cache_dir: a hub cache folder; None is the hub's own (`HF_HUB_CACHE`, `HF_HOME`).
        progress: show a progress bar where stderr is a terminal.

    Returns:
        The file to load, inside the cache.

    Raises:
        ModelReferenceError: it can't be found, reached or stored, or the choice isn't clear.
    """
    import httpx2
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not progress:
        disable_progress_bars()
    try:
        return _download_online(reference, cache_dir)
    except (errors.OfflineModeIsEnabled, httpx2.TransportError, errors.LocalEntryNotFoundError) as error:
        return _find_in_cache(reference, cache_dir, error)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        if _is_passing(error):
            return _find_in_cache(reference, cache_dir, error)
        raise ModelReferenceError(_explain(reference, error)) from error


def _is_passing(error: Exception) -> bool:
    """Whether the hub answered, but only that it can't serve anybody now."""
    from huggingface_hub import errors

    return isinstance(error, errors.HfHubHTTPError) and (
        error.response.status_code == 429 or error.response.status_code >= 500
    )


def _download_online(reference: HubReference, cache_dir: Path | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(reference.repository, revision=reference.revision, files_metadata=True)
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    choice = choose_model(files, f"hub repository {reference}", reference.wanted)
    _check_space(reference, choice, files, info.sha or reference.revision, cache_dir)
    paths = [
        # By the name of the revision, so that the cache can also be used offline under that name.
        Path(hf_hub_download(reference.repository, part, revision=reference.revision, cache_dir=cache_dir))
        for part in choice.parts
    ]
    if len({path.parent for path in paths}) > 1:
        raise ModelReferenceError(f"hub repository {reference} changed during the download; start again")
    return paths[0]


def _check_space(
    reference: HubReference, choice: Choice, files: dict[str, int], commit: str, cache_dir: Path | None
) -> None:
    """huggingface_hub only warns, and then fills the disk."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    def is_cached(part: str) -> bool:
        found = try_to_load_from_cache(reference.repository, part, cache_dir=cache_dir, revision=commit)
        return isinstance(found, str)

    needed = sum(files[part] for part in choice.parts if not is_cached(part))
    if not needed:
        return
    folder = Path(cache_dir or constants.HF_HUB_CACHE)
    sweep_hub(folder, repo_folder_name(repo_id=reference.repository, repo_type="model"))
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelReferenceError(
            f"{choice.name} needs {needed / 1e9:.2f} GB more, but {folder} has {free / 1e9:.2f} GB free; "
            "free some space, choose a smaller quantisation, or set HF_HOME to a folder on a larger disk"
        )
    logger.info("downloading %s from hub repository %s: %.2f GB", choice.name, reference, needed / 1e9)


def _find_in_cache(reference: HubReference, cache_dir: Path | None, cause: Exception) -> Path:
    """The hub can't be reached: what an earlier download left is as good."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(
            snapshot_download(
                reference.repository, revision=reference.revision, cache_dir=cache_dir, local_files_only=True
            )
        )
    except errors.IncompleteSnapshotError as incomplete:
        folder = Path(incomplete.snapshot_path)
    except (errors.LocalEntryNotFoundError, ValueError, OSError):
        folder = Path()
    files = [path for path in folder.rglob("*.gguf") if path.is_file()] if folder.name else []
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    if not any(map(is_model_file, sizes)):
        raise ModelReferenceError(_unreachable(reference, cause)) from cause
    problem = _explain(reference, cause) if _is_passing(cause) else f"unreachable: {type(cause).__name__}"
    logger.warning("the hub can't be reached (%s); using the cache in %s", problem, folder)
    return folder / choose_model(sizes, f"the cache of {reference}", reference.wanted).name


def _unreachable(reference: HubReference, cause: Exception) -> str:
    from huggingface_hub import constants

    problem = f"the hub at {constants.ENDPOINT} can't be reached ({_root_cause(cause)})"
    if _is_passing(cause):
        problem = _explain(reference, cause)
    if constants.is_offline_mode():
        problem = "HF_HUB_OFFLINE is set"
    return (
        f"{problem} and {reference} is not in the cache; mount a GGUF file and give its path, "
        "set HF_ENDPOINT to a mirror, or fill the cache where there is a network with "
        f"`hf download {reference.repository}` and set HF_HOME to it"
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _explain(reference: HubReference, error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"hub repository {reference} is gated: accept its terms on the hub and {_token_advice()}"
        case errors.RepositoryNotFoundError():
            advice = f"check its name, or if it is private, {_token_advice()}"
            return f"hub repository {reference} was not found: {advice}"
        case errors.RevisionNotFoundError():
            return f"hub repository {reference.repository} has no revision {reference.revision!r}"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status in (401, 403):
                return f"the hub refused access to {reference} ({status}): {_token_advice()}"
            return f"the hub answered {status} for {reference}; try again later"
        case OSError() if error.errno in _NO_SPACE:
            return (
                f"no space left while downloading {reference} ({error.strerror}); free some, or set HF_HOME"
            )
        case OSError() if error.errno is not None:
            return f"{reference} can't be stored: {error}; set HF_HOME to a folder that can be written"
        case _:
            return f"{reference} can't be downloaded: {error}"


def _token_advice() -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return "set HF_TOKEN to a token that may read it"
    return "give the account of HF_TOKEN access to it"
