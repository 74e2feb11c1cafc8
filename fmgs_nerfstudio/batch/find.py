"""Where plans come from: built in, from a folder, from a YAML file."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fmgs_nerfstudio.batch.ablation import table_3
from fmgs_nerfstudio.batch.plan import Plan, Source, Variant, plain
from fmgs_nerfstudio.batch.tasks import BatchError
from fmgs_nerfstudio.evaluation.report.paper import TABLE_2, ZJU_SUBJECTS
from fmgs_nerfstudio.gate import read_plain_yaml

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")

# Built-in plans -------------------------------------------------------------------------------------------------------


def zju(data: Path) -> Plan:
    """The paper's Table 1: six subjects in HumanNeRF's split."""
    captures = tuple(Source(name, _zju_folder(data, name)) for name in ZJU_SUBJECTS)
    return Plan("zju", captures, protocol="humannerf", paper="zju")


def people_snapshot(data: Path) -> Plan:
    """The paper's Table 2: four subjects in InstantAvatar's split."""
    captures = tuple(Source(name, data / name) for name in TABLE_2)
    return Plan("people-snapshot", captures, protocol="instantavatar", paper="people-snapshot")


def ablation(data: Path) -> Plan:
    """The paper's Table 3: one prior after the other, on subject 377."""
    captures = (Source("377", _zju_folder(data, "377")),)
    return Plan("ablation", captures, table_3("fmgs-avatar"), protocol="humannerf", paper="ablation")


def demo(data: Path | None, preset: str = "small", people: Iterable[int] = (0, 1, 2)) -> Plan:
    """People that fmgs-demo makes, by their seeds."""
    return Plan("demo", tuple(_person(preset, seed) for seed in people))


def _person(preset: str, seed: int) -> Source:
    return Source(f"{preset}-{seed}", None, "demo", ("--preset", preset, "--seed", str(seed)))


def _zju_folder(data: Path, name: str) -> Path:
    folders = [data / f"CoreView_{name}", data / name, data / f"my_{name}"]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


BUILT_IN: dict[str, Callable[[Path], Plan]] = {
    "zju": zju,
    "people-snapshot": people_snapshot,
    "ablation": ablation,
    "demo": demo,
}


def find_plan(name: str, data: Path | None) -> Plan:
    """The plan that is built in under this name, or that this file holds, or all captures and videos of this folder.

    Raises:
        BatchError: there is none, or it says what no plan says.
    """
    if name in BUILT_IN:
        if data is None and name != "demo":
            raise BatchError(f"the plan {name} needs --data, the folder that holds its captures")
        return BUILT_IN[name](Path() if data is None else data.resolve())
    path = Path(name)
    if path.is_dir():
        return Plan(path.resolve().name, named(_captures_in(path.resolve())))
    if path.is_file():
        return read_plan(path.resolve())
    raise BatchError(f"there is no plan {name}: expected {', '.join(BUILT_IN)}, a folder of captures, or a YAML file")


# Folders --------------------------------------------------------------------------------------------------------------


def _captures_in(folder: Path) -> list[Path]:
    """Its folders and videos; itself where its video has fits beside it."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in inside if path.is_dir() or path.suffix.lower() in VIDEOS]
    if any(path.is_file() for path in found) and _is_capture(folder):
        return [folder]
    if not found:
        raise BatchError(f"{folder} has no folders and no videos; expected one of either for each person")
    return found


def _is_capture(folder: Path) -> bool:
    from fmgs_dataparsers.parser import LAYOUTS  # takes seconds

    return any(layout.matches(folder) for layout in LAYOUTS)


def named(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Captures by the names of their folders; by those of the folders above, too, where two have one name."""
    short = [path.stem if path.suffix.lower() in VIDEOS else path.name for path in paths]
    sources: list[Source] = []
    for path, name in zip(paths, short, strict=True):
        if short.count(name) > 1:
            name = f"{path.parent.name}-{name}"
        sources.append(Source(plain(name), path, "track" if _is_video(path) else ""))
    return tuple(sources)


def _is_video(path: Path) -> bool:
    """Whether it is a video, or a folder of one, that nobody has fitted a body to."""
    if not path.is_dir():
        return path.suffix.lower() in VIDEOS
    videos = any(inside.suffix.lower() in VIDEOS for inside in path.iterdir())
    return videos and not _is_capture(path)


# Files ----------------------------------------------------------------------------------------------------------------

_KEYS = ("captures", "demo", "variants", "seeds", "run", "steps", "protocol", "flags")


def read_plan(path: Path) -> Plan:
    """A plan in YAML; docs/scale.md has all its keys.

    Raises:
        BatchError, FileError: it is no such file; names key and expectation.
    """
    read = read_plain_yaml(path)
    content = _mapping(read, f"{path}", _KEYS)
    captures = _sources(content, path)
    given = {key: content[key] for key in ("protocol",) if key in content}
    if "variants" in content:
        given["variants"] = tuple(_variant(name, value, path) for name, value in _items(content["variants"], path))
    if "seeds" in content:
        given["seeds"] = _numbers(content["seeds"], f"{path}: seeds")
    if "run" in content:
        given["run"] = _words(content["run"], f"{path}: run")
    if "steps" in content:
        (given["steps"],) = _numbers([content["steps"]], f"{path}: steps")
    if "flags" in content:
        given["flags"] = {k: _words(v, f"{path}: flags: {k}") for k, v in _items(content["flags"], path)}
    return Plan(path.stem, captures, **given)


def _sources(content: dict[str, Any], path: Path) -> tuple[Source, ...]:
    found: list[Path] = []
    for pattern in _words(content.get("captures", []), f"{path}: captures"):
        place = path.parent / pattern
        matched = sorted(Path(name) for name in glob.glob(str(place))) if glob.has_magic(pattern) else [place]
        if not matched:
            raise BatchError(f"{path}: captures: nothing matches {pattern}")
        found += matched
    sources = named(found)
    if "demo" in content:
        people = _mapping(content["demo"], f"{path}: demo", ("preset", "seeds"))
        sources += demo(
            None, people.get("preset", "small"), _numbers(people.get("seeds", ["0"]), f"{path}: demo: seeds")
        ).captures
    if not sources:
        raise BatchError(f"{path} names no captures; expected captures: [folders, videos or patterns], or demo:")
    return sources


def _variant(name: str, value: Any, path: Path) -> Variant:
    where = f"{path}: variants: {name}"
    content = _mapping(value or {}, where, ("method", "flags"))
    return Variant(name, content.get("method", "fmgs-avatar"), _words(content.get("flags", []), f"{where}: flags"))


def _mapping(value: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BatchError(f"{where}: expected keys ({', '.join(known)}), found {_shown(value)}")
    if unknown := [key for key in value if key not in known]:
        raise BatchError(f"{where}: there is no key {unknown[0]}; known are {', '.join(known)}")
    return value


def _items(value: Any, path: Path) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BatchError(f"{path}: expected names with values, found {_shown(value)}")
    return list(value.items())


def _words(value: Any, where: str) -> tuple[str, ...]:
    """A list of words, or one line of them as a shell takes it."""
    if isinstance(value, str):
        value = shlex.split(value)
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise BatchError(f"{where}: expected a list of words, found {_shown(value)}")
    return tuple(value)


def _numbers(value: Any, where: str) -> tuple[int, ...]:
    words = _words(value, where)
    if not words or not all(word.isdecimal() for word in words):
        raise BatchError(f"{where}: expected whole numbers from 0, found {_shown(value)}")
    return tuple(int(word) for word in words)


def _shown(value: Any) -> str:
    return repr(value)[:80]
