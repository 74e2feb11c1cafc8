"""What `scripts/demo` prints at its end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("demo_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


def test_what_one_camera_leaves_out_is_shown_for_new_poses() -> None:
    """A video has no other views; a capture may have no other poses."""
    console = Console(width=120)
    with console.capture() as printed:
        console.print(_script()._table({"novel_pose_psnr": 28.75, "ssim": 0.5}))
    lines = {line.split()[1]: line for line in printed.get().splitlines() if line.startswith("│")}
    assert lines["PSNR"].index("-") < lines["PSNR"].index("28.750")
    assert lines["SSIM"].index("0.500") < lines["SSIM"].rindex("-")
    assert set(lines) == {"PSNR", "SSIM"}
