"""Are the packages that this one needs there, in versions that it knows? Asked at the start, before their imports."""

from __future__ import annotations

import functools
import os
import sys
from importlib import metadata, util

from packaging.requirements import Requirement

PACKAGE = "fmgs-nerfstudio"
ANY_VERSION = "FMGS_ANY_VERSION"
"""Environment variable: set, other versions are told and tried."""
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}  # where it is not the package's name


@functools.cache
def unmet() -> tuple[str, ...]:
    """A line for each required package that is missing or of another version, and what to do; none without metadata,
    as in a tree that is not installed."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return ()
    requirements = [Requirement(line) for line in lines]
    wanted = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return tuple(line for each in wanted if (line := _complaint(each)))


def _complaint(requirement: Requirement) -> str | None:
    need = f"{requirement.name}{requirement.specifier}"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        if util.find_spec(_MODULES.get(requirement.name.lower(), requirement.name.replace("-", "_"))):
            return None  # under another name, as opencv-python is, or from a source tree
        return f"{PACKAGE} needs {need}, which is not installed: pip install '{need}'"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{PACKAGE} needs {need}, and {found} is installed: pip install '{need}'"


@functools.cache  # once in a program
def tell() -> None:
    """Say on stderr what is unmet and go on: the host also runs methods that do not need it."""
    for line in unmet():
        print(line, file=sys.stderr)


def insist() -> None:
    """End the program with what is unmet, unless the user wants to try.

    Raises:
        SystemExit: something is unmet.
    """
    if not unmet():
        return
    if os.environ.get(ANY_VERSION):
        return tell()
    sys.exit("\n".join((*unmet(), f"{ANY_VERSION}=1 tries these versions as they are")))
