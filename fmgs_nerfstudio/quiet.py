"""Warnings of other packages that users can do nothing about, each by category, text, and the module it is about.

Not those of our own code, and none that tells of the user's data. `-W` and PYTHONWARNINGS show them again.
"""

from __future__ import annotations

import sys
import warnings

_KNOWN: tuple[tuple[type[Warning], str, str], ...] = (
    # nerfstudio 1.1.5 is older than the torch it runs with.
    (FutureWarning, r"`torch\.cuda\.amp\.", r"nerfstudio\."),
    # Its loop steps the schedule also of what is not trained yet.
    (UserWarning, r"Detected call of `lr_scheduler\.step\(\)`", r"nerfstudio\."),
    (FutureWarning, r"`torch\.jit\.script` is deprecated", r"torch\.jit\."),
)


def silence() -> None:
    """Leave out the known warnings from here on. They come at imports: call it before those."""
    if not sys.warnoptions:
        for category, message, module in _KNOWN:
            warnings.filterwarnings("ignore", message, category, module)
