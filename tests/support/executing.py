"""A worker in a process of its own."""

from __future__ import annotations

from pathlib import Path

from fmgs_nerfstudio.batch.execute import execute
from fmgs_nerfstudio.batch.tasks import Order, Task


def main(state: str, command: tuple[str, ...]) -> None:
    """Do one task."""
    execute(Order(Task("a/x", command), "", Path(state), {}))
