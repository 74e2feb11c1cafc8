"""`fmgs-demo`: make a synthetic capture of a dressed person, with priors and exact ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.demo.capture import DemoError, DemoOptions, make_capture


@dataclass(frozen=True)
class Demo:
    """Write a synthetic monocular capture (raw ZJU-MoCap layout) of a dressed, textured, moving person.

    Nothing is downloaded and nothing needs a licence. An existing capture made with the same options is kept.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the capture, e.g. demo_out/capture."""
    options: Annotated[DemoOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=DemoOptions)
    overwrite: bool = False
    """Replace a capture that was made with other options."""


def run(demo: Demo) -> None:
    """Make the capture and say where it is.

    Raises:
        DemoError: the folder or an option cannot be used.
    """
    for name, value in vars(demo.options).items():
        if name.endswith("_noise") and not 0 <= value <= 10:
            raise DemoError(f"--{name.replace('_', '-')} is {value}; expected 0 to 10.")
    if demo.options.seed < 0:
        raise DemoError(f"--seed is {demo.options.seed}; expected 0 or more.")
    bar = Progress(
        TextColumn("Rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn()
    )
    task = bar.add_task("images", total=None)

    def progress(done: int, total: int) -> None:
        bar.start()  # not before there is something to do
        bar.update(task, completed=done, total=total)

    try:
        written = make_capture(demo.out, demo.options, demo.overwrite, progress)
    finally:
        if bar.live.is_started:
            bar.stop()
    print(f"{'Wrote' if written else 'Kept (made with the same options)'}: {demo.out}")


def main() -> None:
    """Entry point of `fmgs-demo`."""
    demo = tyro.cli(Demo, prog="fmgs-demo")
    with in_one_line("fmgs-demo", DemoError, interrupted="nothing was written"):
        run(demo)


if __name__ == "__main__":
    main()
