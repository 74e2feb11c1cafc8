"""The page of a tracked video: what was seen, what was left out and why, how sure the fits are."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.evaluation.html import render
from fmgs_nerfstudio.evaluation.track.overlay import Overlays
from fmgs_nerfstudio.track.records import Fits, Sightings

_FEET = (29, 30, 31, 32)
_COLOURED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def facts_of(fits: Fits, sightings: Sightings) -> dict[str, str]:
    """What was found, line by line."""
    sure, up = fits.uncertainty, fits.world_to_camera[:3, :3] @ [0, 1, 0]
    pitch = np.degrees(np.arctan2(-up[2], -up[1]))
    height = -(fits.world_to_camera[:3, :3].T @ fits.world_to_camera[:3, 3])[1]
    right, down, forward = (1000 * value for value in sure.position)
    time = sightings.time
    return {
        "frames": f"{len(time)}, {time[0]:.1f} to {time[-1]:.1f} s, {sightings.size[0]} x {sightings.size[1]} pixels",
        "focal length": f"{fits.K[0, 0]:.0f} px, within {sure.focal:.0%} (rms)",
        "camera": f"{height:.2f} m above the ground, looks {abs(pitch):.1f} degrees {'up' if pitch < 0 else 'down'}",
        "rotations": f"may be {np.degrees(sure.rotation):.0f} degrees off (rms of a joint)",
        "position": f"{right:.0f} mm across, {down:.0f} up and down, {forward:.0f} along the axis (rms of a frame)",
        "whole clip": f"may lean by {np.degrees(sure.lean):.1f} degrees, be {100 * sure.distance:.0f} cm off (rms)",
    }


def chart(overlays: Overlays) -> bytes:
    """PNG: how surely the person and their feet are seen, and which way they face, over the seconds of the video."""
    sightings, poses = overlays.sightings, overlays.capture.poses
    with matplotlib.rc_context({"font.size": 7, **dict.fromkeys(_COLOURED, "#7d8792")}):
        figure = Figure(figsize=(9, 2.4), dpi=130, layout="constrained")
        seen, turned = figure.subplots(1, 2)
        seen.plot(sightings.time, sightings.score.mean(1), color="#3a7fdc", label="all landmarks")
        seen.plot(sightings.time, sightings.score[:, _FEET].mean(1), color="#d9730d", label="feet")
        seen.set(title="Score of landmarks", xlabel="s", ylim=(0, 1.05))
        seen.legend(frameon=False)
        turned.plot(sightings.time, _facing(poses), ".-", markersize=2, color="#2b9a66")
        turned.set(title="Turn of the root about the vertical, degrees", xlabel="s")
        content = io.BytesIO()
        figure.savefig(content, format="png", transparent=True)
    return content.getvalue()


def _facing(poses: Float[Array, "F 72"]) -> Float[Array, "F"]:
    """Degrees, without jumps, in which the body's front points about the world's vertical."""
    front = Rotation.from_rotvec(poses[:, :3]).apply([0, 0, 1])
    return np.degrees(np.unwrap(np.arctan2(front[:, 0], front[:, 2])))


def html_page(
    name: str,
    facts: Mapping[str, str],
    remarks: Sequence[str],
    left_out: Sequence[str],
    sheet: bytes,
    curves: bytes,
) -> str:
    """One file that needs no other but the overlay video beside it.

    Args:
        facts: lines of a table.
        remarks: what a user should know before training.
        left_out: a line for each reason that frames were not used for.
        sheet, curves: PNG files.
    """
    return render(
        "track.html", name=name, facts=facts, remarks=remarks, left_out=left_out, sheet_png=sheet, curves_png=curves
    )
