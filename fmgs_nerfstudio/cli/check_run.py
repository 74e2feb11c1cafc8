"""`fmgs-check RUN`: is a run of somebody else clean?"""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.console import Console

from fmgs_nerfstudio.evaluation.run_check import RunVerdict, check_run
from fmgs_nerfstudio.evaluation.runs import settled
from fmgs_nerfstudio.files import atomic_path


def show_run_check(run: Path, data: Path | None, rewrite: Path | None, console: Console) -> bool:
    """Print what is in a run, and where asked for, write its configuration for nerfstudio's commands. Whether it is
    clean.

    Raises:
        RunError: there is no run.
    """
    verdict = check_run(run)
    _say(verdict, console)
    if verdict.clean and rewrite is not None:
        with atomic_path(rewrite) as path:
            path.write_text(yaml.dump(settled(verdict.config, data)), encoding="utf-8")
        console.print(f"Wrote {rewrite}", markup=False, highlight=False)
    return verdict.clean


def _say(verdict: RunVerdict, console: Console) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"{verdict.config.parent}: a run of fmgs-avatar")
    for line in verdict.broken:
        say(f"Cannot be used: {line}", "red")
    for line in verdict.would_run:
        say(f"Would be run: {line}", "bold red")
    if verdict.would_run:
        say("Not clean: ns-eval, ns-viewer and ns-render would run this. Our own commands refuse it.", "bold red")
    for line in verdict.remarks:
        say(f"Note: {line}")
    if verdict.clean:
        say(f"clean: {', '.join(verdict.checked)} hold data alone", "bold green")
