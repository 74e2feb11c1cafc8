"""Where an estimator's weights are. Nothing is downloaded before somebody has agreed to what, and to its licence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Consent = Callable[[str], bool]
"""Is told what would be downloaded (repository, files, size, licence) and says whether it may be."""

EXTRA = "pip install 'fmgs-nerfstudio[priors]'"


class CheckpointError(ValueError):
    """Weights are missing, corrupt or of another model; the message names the file and what to do."""


@dataclass(frozen=True)
class Weights:
    """Files of a repository on the Hugging Face hub that one network needs."""

    repo: str
    files: tuple[str, ...]
    """Names, where * stands for anything. One name: a single file; several: a folder that holds all of them."""
    licence: str
    size: str = "size unknown"

    @property
    def folder(self) -> str:
        """Name of a folder that holds these files beside others'."""
        return self.repo.split("/")[-1]


def find_weights(weights: Weights, checkpoint: str | None, consent: Consent) -> Path:
    """The file (or the folder, where there are several) of `weights`: at `checkpoint`, in the hub's cache, downloaded.

    `checkpoint` is a file, a folder, or another repository; without it, the repository is the released one.

    Raises:
        CheckpointError: nothing there, no consent, or no network; names the file and where to put it.
    """
    if checkpoint is not None and Path(checkpoint).expanduser().exists():
        return _in_folder(weights, Path(checkpoint).expanduser())
    if checkpoint is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint):
        raise CheckpointError(f"--checkpoint {checkpoint}: no such file or folder, and no repository (owner/name).")
    repo = checkpoint or weights.repo
    manual = (
        f"  To do it by hand: put {' and '.join(weights.files)} from https://huggingface.co/{repo}/tree/main\n"
        f"  into a folder FOLDER/{weights.folder} and give --checkpoint FOLDER."
    )
    snapshot_download, transport_error = _hub(manual)
    try:
        return _whole(weights, Path(snapshot_download(repo, allow_patterns=list(weights.files), local_files_only=True)))
    except (FileNotFoundError, CheckpointError):
        pass  # not in the cache, or not all of it
    licence = weights.licence if repo == weights.repo else f"see https://huggingface.co/{repo}"
    size = f" ({weights.size})" if repo == weights.repo else ""
    if not consent(f"{repo}: {', '.join(weights.files)}{size}, licence: {licence}"):
        raise CheckpointError(
            f"The weights of {repo} are not on this machine, and nothing is downloaded unasked.\n"
            f"  Licence: {licence}. If you accept it, add --download{size}.\n{manual}"
        )
    try:
        return _whole(weights, Path(snapshot_download(repo, allow_patterns=list(weights.files))))
    except (OSError, RuntimeError, transport_error) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"Downloading {repo} failed: {reason}\n{manual}") from error


def _in_folder(weights: Weights, place: Path) -> Path:
    if place.is_file():
        if len(weights.files) > 1:
            raise CheckpointError(f"--checkpoint {place} is a file; expected a folder with {', '.join(weights.files)}.")
        return place
    # The folder itself, one named as the repository, or one anywhere below (Sapiens' own tree nests its files).
    below = sorted(path.parent for path in place.rglob(weights.files[0]))
    for folder in (place, place / weights.folder, *below):
        if _missing(weights, folder) is None:
            return _whole(weights, folder)
    inside = ", ".join(sorted(path.name for path in place.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"--checkpoint {place}: no {' and '.join(weights.files)} in it, in {weights.folder}/ or below;\n"
        f"  found {inside}.\n"
        f"  The files are those of https://huggingface.co/{weights.repo}/tree/main"
    )


def _whole(weights: Weights, folder: Path) -> Path:
    if (missing := _missing(weights, folder)) is not None:
        raise CheckpointError(f"{folder} lacks {missing}; get it from https://huggingface.co/{weights.repo}/tree/main")
    names = list(weights.files)
    return folder if len(names) > 1 else min(folder.glob(names[0]))


def _missing(weights: Weights, folder: Path) -> str | None:
    return next((name for name in weights.files if next(folder.glob(name), None) is None), None)


def _hub(manual: str) -> tuple[Callable[..., str], type[Exception]]:
    """The download function, and the base of what its HTTP library raises."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise CheckpointError(f"Downloads need huggingface_hub, which is not installed: {EXTRA}\n{manual}") from error
    # Which library that is differs from version to version; a connection cut in mid-file comes through as its own.
    return snapshot_download, HfHubHTTPError.__bases__[0]
