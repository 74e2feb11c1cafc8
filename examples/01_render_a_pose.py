"""Open a trained avatar, bend one joint, and save the picture.

It shows how to load a run, how a pose is stored (24 rotation vectors), and how to render one from a camera of the
capture. Train something first, for instance with scripts/demo, then:

    python examples/01_render_a_pose.py demo_out --joint left_elbow --rotation 0 -90 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import torch
import tyro

from fmgs_nerfstudio.body.model import JOINT_NAMES
from fmgs_nerfstudio.evaluation.pictures import picture
from fmgs_nerfstudio.evaluation.runs import open_run
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.rendering import Camera


@dataclass
class Options:
    """Render a trained avatar with one joint turned."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run: its config.yml, its folder, or a folder above (the newest run in it)."""
    joint: str = "left_elbow"
    """Joint to turn, one of SMPL's 24."""
    rotation: tuple[float, float, float] = (0.0, -90.0, 0.0)
    """Rotation vector of the joint relative to its parent, in degrees."""
    frame: int = 0
    """Training frame that gives the camera and the pose of all other joints."""
    out: Path = Path("pose.png")
    """Picture to write."""


@torch.no_grad()
def main(options: Options) -> None:
    if options.joint not in JOINT_NAMES:
        raise SystemExit(f"error: there is no joint {options.joint!r}; joints: {', '.join(JOINT_NAMES)}")
    run = open_run(options.run)
    model, data = run.model, run.pipeline.datamanager.train_dataset

    # The pose of the frame as training refined it: 72 numbers in radians, and a translation in metres.
    pose, transl = model.poses(data.frames[options.frame].pose_id)
    pose = pose.clone()
    joint = JOINT_NAMES.index(options.joint)
    pose[3 * joint : 3 * joint + 3] = pose.new_tensor(options.rotation) * math.pi / 180

    # FrozenAvatar computes what depends on neither pose nor camera once, so that many poses are cheap.
    avatar = FrozenAvatar(model)
    camera = Camera.from_nerfstudio(data.cameras[options.frame : options.frame + 1].to(model.device))
    maps = avatar.render(avatar.pose(pose, transl), camera, ["colour", "normal"])

    cv2.imwrite(str(options.out), picture("rgb", maps)[..., ::-1])  # maps["normal"] is there, too
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
