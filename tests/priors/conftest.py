"""A demo capture whose fits, masks and truth agree exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fmgs_dataparsers.capture import Capture
from support.priors_capture import opened

from fmgs_nerfstudio.demo import capture as demo
from fmgs_nerfstudio.demo.capture import DemoOptions, Preset, make_capture


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture without priors; not to be written to."""
    out = tmp_path_factory.mktemp("priors") / "capture"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(demo.PRESETS, "ci", Preset(96, 0, 5, 1, 1, ("Camera_B2",)))
        make_capture(out, DemoOptions(preset="ci", priors="none", pose_noise=0, mask_noise=0))
    return out


@pytest.fixture
def capture(made: Path, tmp_path: Path) -> Capture:
    """A copy of it, opened."""
    shutil.copytree(made, tmp_path / "capture")
    return opened(tmp_path / "capture")
