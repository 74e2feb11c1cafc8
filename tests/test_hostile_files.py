"""Files of strangers: each is read rightly or refused by its name, in the end and within 1 GiB; nothing runs or strays.

Every reader (`support/stranger_files.py`) meets the same mutations, which hypothesis chooses, always the same ones;
what was once found to break a reader, and what is made to break one, is a bomb with a name.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nerfstudio.utils.rich_utils import CONSOLE
from support.guarded import BYTES, SECONDS, in_child, measured
from support.stranger_files import READERS, Reader

CASES = 60
"""Mutations of each kind of file."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONSOLE, "quiet", True)


def verdict(reader: Reader, path: Path, folder: Path, must_fail: bool = False) -> tuple[str | None, float, int]:
    """What is wrong with how `path` was read (None: nothing), and what it took."""
    outcome = measured(lambda: reader.read(path), folder)
    wrong = None
    if outcome.strayed:
        wrong = f"went out of its folder: {outcome.strayed[:3]}"
    elif (folder / "canary").exists():
        wrong = "ran code"
    elif outcome.seconds > SECONDS:
        wrong = f"took {outcome.seconds:.1f} s"
    elif outcome.bytes > BYTES:
        wrong = f"took {outcome.bytes / 2**20:.0f} MiB"
    elif outcome.error is not None and not isinstance(outcome.error, reader.errors):
        wrong = f"{type(outcome.error).__name__}: {outcome.error}"
    elif outcome.error is not None and path.name not in str(outcome.error):
        wrong = f"told without its name: {outcome.error}"
    elif outcome.error is None and must_fail:
        wrong = "was read"
    return wrong, outcome.seconds, outcome.bytes


# Mutations ------------------------------------------------------------------------------

_LARGE = [
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0" * 8,
    b"\xff" * 8,
    struct.pack("<Q", 2**40),
    b"9" * 12,
]


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, Any]]:
    """Of a file's content, in terms of its length: places are shares of it; half are among the first bytes."""
    place = st.one_of(st.floats(0, 1), st.floats(0, 0.1))
    kind = st.one_of(
        st.tuples(st.just("cut"), place, st.none()),
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("write"), place, st.sampled_from(_LARGE)),
        st.tuples(st.just("write"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=64)),
        st.tuples(st.just("remove"), place, st.integers(1, 64)),
        st.tuples(st.just("repeat"), place, st.integers(1, 300)),
    )
    return draw(st.lists(kind, min_size=1, max_size=4))


def mutated(content: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    for kind, share, value in changes:
        at = int(share * len(content))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ (1 << value)]) + content[at + 1 :]
        elif kind == "write":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + value :]
        elif kind == "repeat":
            content = content[:at] + content[max(at - 8, 0) : at] * value + content[at:]
    return content


def _mutate(reader: Reader, path: Path, folder: Path) -> tuple[list[str], int, float, int]:
    """What went wrong, the number of cases, and the worst of them."""
    whole = path.read_bytes()
    reader.read(path)
    found: list[str] = []
    n, slowest, largest = 0, 0.0, 0

    @settings(
        max_examples=CASES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=[*HealthCheck.__members__.values()],
    )  # fmt: skip
    @given(mutations())
    def each(changes: list[tuple[str, float, Any]]) -> None:
        nonlocal n, slowest, largest
        path.write_bytes(mutated(whole, changes))
        wrong, seconds, size = verdict(reader, path, folder)
        n, slowest, largest = n + 1, max(slowest, seconds), max(largest, size)
        if wrong:
            found.append(f"{changes}: {wrong}")

    each()
    return found, n, slowest, largest


@pytest.mark.parametrize("name", READERS)
def test_mutations(tmp_path: Path, name: str, record_property: Callable[[str, Any], None]) -> None:
    reader = READERS[name]
    path = tmp_path / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    reader.write(path)
    found, n, slowest, largest = in_child(partial(_mutate, reader, path, tmp_path))
    for key, value in (("cases", n), ("seconds", slowest), ("MiB", largest / 2**20)):
        record_property(key, value)
    assert not found, "\n".join(found)
    assert n >= CASES * 0.9


# What is no file, and what is too much of one --------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _giant(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(4 * 2**30)


KINDS: dict[str, Callable[[Path], Any]] = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "nothing": lambda path: None,
    "empty": Path.touch,
    "zeros": _giant,
}


def _strange(reader: Reader, path: Path, folder: Path) -> tuple[list[str], int, float, int]:
    whole = path.read_bytes()
    found, slowest, largest = [], 0.0, 0
    for kind, make in {**KINDS, "whole, then zeros": lambda p: (p.write_bytes(whole), _giant(p))}.items():
        for old in path.parent.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        make(path)
        wrong, seconds, size = verdict(
            reader, path, folder, must_fail=kind not in ("whole, then zeros", *reader.stands)
        )
        slowest, largest = max(slowest, seconds), max(largest, size)
        if wrong:
            found.append(f"{kind}: {wrong}")
    return found, len(KINDS) + 1, slowest, largest


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file(tmp_path: Path, name: str, record_property: Callable[[str, Any], None]) -> None:
    reader = READERS[name]
    path = tmp_path / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    reader.write(path)
    found, n, slowest, largest = in_child(partial(_strange, reader, path, tmp_path))
    for key, value in (("cases", n), ("seconds", slowest), ("MiB", largest / 2**20)):
        record_property(key, value)
    assert not found, "\n".join(found)
