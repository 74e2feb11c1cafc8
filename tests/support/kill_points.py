"""Kills training and every writer of files at many points, with real signals, and looks at what is left on the disk.

A program, so that it can fork: `python -m support.kill_points FOLDER` prints what it found as JSON (`Found`), by name.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
from PIL import Image
from plyfile import PlyData
from support.kill_training import Training, fill_training, kill_training, signal_training, signal_twice, tear_training
from support.killing import Child, Found, Work, at_byte, at_event, at_most, command, events, killed, small_disk, spread
from support.priors_capture import Perfect, network, opened
from support.small_avatar import small_avatar

from fmgs_nerfstudio.cli import animate, demo, export, priors, report
from fmgs_nerfstudio.demo.capture import PRESETS, DemoOptions, Preset, make_capture


def not_whole(folder: Path) -> list[str]:
    """Files that a reader would open and that are not whole, as libraries of others read them."""
    problems = list[str]()
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".fmgs-aside-") for part in path.relative_to(folder).parts):
            try:
                _READERS[path.suffix](path)
            except Exception as error:
                problems.append(f"{path}: {error!r}")
    return problems


def _open_glb(path: Path) -> None:
    data = path.read_bytes()
    assert int.from_bytes(data[8:12], "little") == len(data)


def _open_obj(path: Path) -> None:
    lines = path.read_text().splitlines()
    last = max(int(corner.split("/")[0]) for line in lines if line.startswith("f ") for corner in line.split()[1:])
    assert last == sum(line.startswith("v ") for line in lines)


def _open_mp4(path: Path) -> None:
    with av.open(str(path)) as video:
        assert sum(1 for _ in video.decode(video=0)) == video.streams.video[0].frames > 0


def _open_text(path: Path) -> None:
    assert path.read_text().endswith("\n") or path.read_text().endswith("</html>")


def _open_numpy(path: Path) -> None:
    content = np.load(path, allow_pickle=True)
    for name in content if path.suffix == ".npz" else ():
        content[name]


def _open_image(path: Path) -> None:
    Image.open(path).load()


_READERS: dict[str, Callable[[Path], object]] = {
    ".ply": PlyData.read, ".glb": _open_glb, ".obj": _open_obj, ".mp4": _open_mp4, ".png": _open_image,
    ".jpg": _open_image, ".json": lambda path: json.loads(path.read_text()), ".npz": _open_numpy, ".npy": _open_numpy,
    ".html": _open_text, ".md": _open_text, ".txt": _open_text,
}  # fmt: skip


def kill_writer(work: Work, out: Path, most: int, sizes: Iterable[int], fresh: int, whole: bool = False) -> Found:
    """`kill -9` of a command that writes to `out`, at up to `most` events and at some sizes of a file.

    Every `fresh`-th time nothing is there before; else what is there stays until it is replaced. `whole`: all of `out`
    is there or nothing.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    found, log = Found(), out.parent / f"{out.name}.log"
    total = events(work, out.parent, log)
    complete = names(out)
    points = {f"event {n}": at_event(n, out.parent) for n in spread(total, most)}
    points |= {f"byte {n}": at_byte(n) for n in sizes}
    for i, (name, point) in enumerate(points.items()):
        if i % fresh == 0:
            shutil.rmtree(out, ignore_errors=True)
        before = names(out)
        found.killed += killed(Child(work, log, point).wait())
        for problem in not_whole(out):
            found.problems.append(f"{name}: {problem}")
        found.expect(whole or before <= names(out), f"{name}: {before - names(out)} are gone")
        found.expect(not whole or names(out) in (set(), complete), f"{name}: {names(out)}")
    found.expect((ended := Child(work, log).wait()).status == 0, ended)
    left = [str(path) for path in out.parent.rglob(".fmgs-aside-*")]
    found.expect(names(out) == complete and not not_whole(out) and not left, f"{names(out)}, {left}")
    return found


def names(folder: Path) -> set[str]:
    """All files of a folder but temporaries."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if ".fmgs-aside-" not in name}


def fill_writer(work_on: Callable[[Path], Work], folder: Path, size: int) -> Found:
    """The disk fills up: one line says so, what is there is whole, and nothing is left over."""
    found, out = Found(), folder / "disk" / "out"
    with small_disk(folder / "disk", size) as mounted:
        first = (lambda: None) if mounted else at_most(size // 8)
        ended = Child(work_on(out), folder / "disk.log", first).wait()
        found.expect(ended.status == 1 and "Traceback" not in ended.said, ended)
        found.expect("No space left" in ended.said or "too large" in ended.said, ended)
        left = [path.name for path in (folder / "disk").rglob(".fmgs-aside-*")]
        found.expect(not left and not not_whole(folder / "disk"), f"{left} {not_whole(folder / 'disk')}")
    return found


def writers(folder: Path, run: Path) -> dict[str, Found]:
    """Every command that writes files; `run` is a trained one."""
    result = report.evaluate(report.open_run(run, with_images=True), 1, 1)
    report.evaluate = lambda *arguments: result  # pyright: ignore[reportAttributeAccessIssue]
    avatar = SimpleNamespace(pipeline=None, model=small_avatar(), folder=folder)
    export.open_run = animate.open_run = lambda run, data: avatar  # pyright: ignore[reportAttributeAccessIssue]
    PRESETS["ci"] = Preset(96, 0, 4, 1, 1, ("Camera_B2",))

    def export_to(out: Path) -> Work:
        small = ("--sh-degree", "0", "--splat-steps", "0", "--formats", "splats", "glb", "obj", "ply")
        return command(export.main, "fmgs-export", folder, "--out", out, *small)

    def animate_to(out: Path) -> Work:
        frames = ("--size", "32", "--fps", "2", "--frames", out / "frames", "--video", out / "video.mp4")
        return command(animate.main, "fmgs-animate", folder, *frames)

    def demo_to(out: Path) -> Work:
        def run() -> None:  # another capture than the one that is there
            old = json.loads((out / "protocol.json").read_text())["generator"] if out.exists() else {"seed": 1}
            options = ("--preset", "ci", "--overwrite", "--seed", 1 - old["seed"])
            command(demo.main, "fmgs-demo", out, *options)()

        return run

    def report_to(out: Path) -> Work:
        return command(report.main, "fmgs-report", run, "--out", out)

    def priors_to(out: Path) -> Work:
        if not out.parent.exists():
            make_capture(out.parent, DemoOptions("ci", priors="none", pose_noise=0, mask_noise=0))
        capture = opened(out.parent)
        perfect = network(Perfect(capture, capture.splits["train"]))
        priors.ESTIMATORS = {"sapiens": lambda options: [perfect]}  # pyright: ignore[reportAttributeAccessIssue]
        return command(priors.main, "fmgs-priors", out.parent, "--batch-size", "1")

    found = dict[str, Found]()
    for name, to, most, sizes, fresh, full in (
        ("export", export_to, 5, (200_000, 400_000), 3, 900_000),
        ("animate", animate_to, 6, (300, 2000), 3, 4096),
        ("report", report_to, 5, (3_000,), 3, 16_000),
        ("demo", demo_to, 6, (20_000,), 3, 150_000),
        ("priors", priors_to, 8, (2_000,), 1, 0),
    ):
        out = folder / name / ("priors" if name == "priors" else "out")
        found[name] = kill_writer(to(out), out, most, sizes, fresh, whole=name == "demo")
        if full:
            found[f"{name} on a full disk"] = fill_writer(to, folder / name, full)
    return found


def main(folder: Path) -> None:
    training = Training(folder / "training")
    found = {"an uninterrupted run": training.found}
    for scenario in (kill_training, signal_training, signal_twice, fill_training, tear_training):
        training.found = Found()
        scenario(training)
        found[scenario.__name__] = training.found
    found |= writers(folder, training.run("whole"))
    print(json.dumps({name: dataclasses.asdict(one) for name, one in found.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
