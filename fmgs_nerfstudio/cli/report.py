"""`fmgs-report`: trained runs in numbers and pictures, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.evaluation.report.page import html_page, markdown
from fmgs_nerfstudio.evaluation.report.results import evaluate
from fmgs_nerfstudio.evaluation.runs import RunError, find_config, open_run
from fmgs_nerfstudio.files import atomic_path, ensure_writable


@dataclass(frozen=True)
class MakeReport:
    """Evaluate runs and write report.html, which needs no other file, and report.md.

    Metrics of every held-out image under named protocols, beside the paper's tables where the data are theirs; training
    curves; pictures with a slider between rendering and truth; the worst frames; the configuration.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The runs: their config.yml, their folders, or folders above (the newest run in each)."""
    out: Path | None = None
    """Folder for the report. Default: report/ in the first run's folder."""
    data: Path | None = None
    """Folder of the runs' capture, where it has moved. Default: as each config.yml says."""
    panels: int = 3
    """Held-out images to show of each kind (new views, new poses)."""
    worst: int = 3
    """Images with the lowest PSNR to show."""


def run(report: MakeReport) -> None:
    """Write the report and say where it is.

    Raises:
        RunError: no run is named, or one cannot be used.
    """
    if not report.runs:
        raise RunError("name one run or more: a config.yml, the folder that ns-train made with it, or a folder above")
    configs = [find_config(path) for path in report.runs]  # all of them, before the first is evaluated
    out = report.out or configs[0].parent / "report"
    ensure_writable(out)
    opened = (open_run(config, report.data, with_images=True) for config in configs)
    results = [evaluate(one, report.panels, report.worst) for one in opened]
    for name, text in (("report.html", html_page(results)), ("report.md", markdown(results))):
        with atomic_path(out / name) as path:
            path.write_text(text, encoding="utf-8")
        print(f"Wrote {out / name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fmgs-report`."""
    report = tyro.cli(MakeReport, prog="fmgs-report", args=arguments)
    with in_one_line("fmgs-report", RunError, interrupted="no report was written"):
        run(report)


if __name__ == "__main__":
    main()
