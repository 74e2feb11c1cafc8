"""Paths that are not there are told before torch is imported: a typing error should not cost ten seconds.

Only what a look at the command line tells for certain; the programs check everything again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_CAPTURE = "expected the folder of a capture (docs/data.md lists the layouts)"
_RUN = "expected a run: its config.yml, its folder, or a folder above, such as outputs/"
_MODELS = "expected the folder nerfstudio_models of a run"
_FILE = "expected a file"

_METHODS = ("fmgs-avatar", "fmgs-avatar-paper")
_OF_NS_TRAIN = {
    "--data": _CAPTURE, "--pipeline.datamanager.data": _CAPTURE,
    "--load-dir": _MODELS, "--load-checkpoint": _FILE, "--load-config": _FILE,
}  # fmt: skip
_POSITIONAL = {
    "fmgs-check": f"{_CAPTURE}, or a run", "fmgs-priors": _CAPTURE,
    "fmgs-animate": _RUN, "fmgs-export": _RUN, "fmgs-report": _RUN,
}  # fmt: skip
_OPTIONS = {"--data": _CAPTURE, "--gradients": _RUN, "--motion": "expected a motion file, or a capture's folder"}


def refuse_missing(arguments: Sequence[str]) -> None:
    """End the program whose command line this is, program first, where a path that it reads is not there.

    Other programs, and ns-train with another method, are none of our business.

    Raises:
        SystemExit: with a line that names the path.
    """
    program, words = Path(arguments[0]).stem if arguments else "", arguments[1:]
    for given, expected in _given(program, words):
        path = Path(given)
        # People write zju/377 for what the archive calls zju/CoreView_377.
        if not path.exists() and not (path.parent / f"CoreView_{path.name}").exists():
            sys.exit(f"{program}: {given} does not exist; {expected}")


def _given(program: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    if program == "ns-train" and words[:1] and words[0] in _METHODS:
        options = _OF_NS_TRAIN
    elif program in _POSITIONAL:
        options = _OPTIONS
        for word in words:
            if word.startswith("-"):
                break
            yield word, _POSITIONAL[program]
    else:
        return
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if (expected := options.get(name.replace("_", "-"))) and not value.startswith("-") and value != "None":
            yield value, expected
