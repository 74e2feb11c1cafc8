"""`fmgs-demo`: make a synthetic capture of a dressed person, with priors and exact ground truth."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fmgs_nerfstudio.demo.capture import DemoError, Options, PresetName, PriorsName, make_capture
from fmgs_nerfstudio.demo.render import LightName


@dataclass(frozen=True)
class Demo:
    """Write a synthetic monocular capture (raw ZJU-MoCap layout) of a dressed, textured, moving person.

    Nothing is downloaded and nothing needs a licence. An existing capture made with the same options is kept.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the capture, e.g. demo_out/capture."""
    preset: PresetName = "small"
    """ci: 128 px, 24 training frames; small: 256 px, 100 frames; full: 512 px, 200 frames."""
    seed: int = 0
    """Decides the person (shape, clothes, hair), the motion and all noise."""
    light: LightName = "studio"
    """studio: soft light from all sides; key: a lamp fixed in the world, the hard case for a turning person."""
    priors: PriorsName = "fmgs"
    """Prior maps of the training camera: PNGs in priors/, .npy as Sapiens' demos write them, or none."""
    pose_noise: float = 1.0
    """Error of the SMPL fit; 1 is 0.015 rad per joint and 5 mm, 0 is exact."""
    mask_noise: float = 1.0
    """Error of the masks; 1 is 1 to 2 pixels in blobs, 0 is exact."""
    depth_noise: float = 1.0
    """Error of the depth priors; 1 is 3 % of the person's depth range, 0 is exact up to scale and shift."""
    normal_noise: float = 1.0
    """Error of the normal priors; 1 is 15 degrees in patches, 0 is exact."""
    label_noise: float = 1.0
    """Error of the class priors along borders; 1 is about 2 pixels, 0 is exact."""
    overwrite: bool = False
    """Replace a capture that was made with other options."""


def run(demo: Demo) -> None:
    """Make the capture and say where it is.

    Raises:
        DemoError: the folder or an option cannot be used.
    """
    fields = {name: getattr(demo, name) for name in Options.__dataclass_fields__}
    for name, value in fields.items():
        if name.endswith("_noise") and not 0 <= value <= 10:
            raise DemoError(f"--{name.replace('_', '-')} is {value}; expected 0 to 10.")
    if demo.seed < 0:
        raise DemoError(f"--seed is {demo.seed}; expected 0 or more.")
    bar = Progress(
        TextColumn("Rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn()
    )
    task = bar.add_task("images", total=None)

    def progress(done: int, total: int) -> None:
        bar.start()  # not before there is something to do
        bar.update(task, completed=done, total=total)

    try:
        written = make_capture(demo.out, Options(**fields), demo.overwrite, progress)
    finally:
        if bar.live.is_started:
            bar.stop()
    print(f"{'Wrote' if written else 'Kept (made with the same options)'}: {demo.out}")


def main() -> None:
    """Entry point of `fmgs-demo`."""
    demo = tyro.cli(Demo, prog="fmgs-demo")
    try:
        run(demo)
    except (DemoError, OSError) as error:
        print(f"fmgs-demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("fmgs-demo: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
