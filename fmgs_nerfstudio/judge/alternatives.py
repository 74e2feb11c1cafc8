"""Conventions that captures get wrong, one row each: how a frame looks if that mistake is undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.judge.silhouette import Fits, View

Undo = Callable[[View, Fits], View | None]
"""The view without the mistake; None where that is unknown, as for the pose after the last."""


@dataclass(frozen=True)
class Alternative:
    """A mistake, and how to see the frame without it."""

    name: str
    mistake: str
    """What is wrong with the capture, as a sentence without its full stop."""
    advice: str
    undo: Undo
    least_gain: float = 0.05
    """Mean IoU that undoing it must bring: clothes and hair make up for a few pixels, so less says nothing."""


def about_the_origin(view: View, fits: Fits) -> View:
    """transl = Th + R J_0 - J_0, where Th was taken for transl."""
    return view._replace(transl=view.transl + fits.lever[view.pose_id])


def about_the_pelvis(view: View, fits: Fits) -> View:
    """transl, where it was taken for Th."""
    return view._replace(transl=view.transl - fits.lever[view.pose_id])


def in_other_units(*, poses: float = 1, Th: float = 1, cameras: float = 1) -> Undo:
    """Multiply translations: of poses in smplx's or in EasyMocap's sense, of cameras."""

    def undo(view: View, fits: Fits) -> View:
        lever, to_camera = fits.lever[view.pose_id], view.world_to_camera.copy()
        to_camera[:3, 3] *= cameras
        transl = view.transl * poses if Th == 1 else (view.transl - lever) * Th + lever
        return view._replace(transl=transl, world_to_camera=to_camera)

    return undo


def of_other_size(scale: float) -> Undo:
    """Multiply focal lengths and principal point."""
    return lambda view, fits: view._replace(K=np.diag([scale, scale, 1.0]) @ view.K)


def of_other_focal_length(scale: float) -> Undo:
    """Multiply focal lengths alone."""
    return lambda view, fits: view._replace(K=view.K * [[scale, 1, 1], [1, scale, 1], [1, 1, 1]])


def with_mask(change: Callable[[Array], Array]) -> Undo:
    """Change the mask."""
    return lambda view, fits: view._replace(mask=change(view.mask))


def with_pose(offset: int) -> Undo:
    """The pose of another row."""

    def undo(view: View, fits: Fits) -> View | None:
        other = view.pose_id + offset
        return view._replace(pose_id=other, transl=fits.transl[other]) if 0 <= other < len(fits.transl) else None

    return undo


def from_camera(change: Callable[[Array], Array]) -> Undo:
    """Change the world-to-camera matrix [4, 4]."""
    return lambda view, fits: view._replace(world_to_camera=change(view.world_to_camera))


def _about_x(degrees: float) -> Float[Array, "4 4"]:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    return turn


_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes to OpenCV's
_UNITS = {"millimetres": 1000.0, "centimetres": 100.0}


def _units() -> list[Alternative]:
    places = {
        "the cameras' translations": ("cameras",),
        "the poses' translations": ("poses",),
        "Th (EasyMocap's translations)": ("Th",),
        "all translations, of cameras and of poses,": ("cameras", "poses"),
        "all translations, of cameras and Th,": ("cameras", "Th"),
    }
    rows = []
    for unit, factor in _UNITS.items():
        for place, names in places.items():
            for scale, stored, taken in ((1 / factor, unit, "metres"), (factor, "metres", unit)):
                undo = in_other_units(**dict.fromkeys(names, scale))
                mistake = f"{place} are in {stored} and were read as {taken}"
                advice = f"multiply them by {scale:g} in the capture's files, or name the --layout that stores {stored}"
                rows.append(Alternative(f"{place} x {scale:g}", mistake, advice, undo))
    return rows


def _focal_lengths() -> list[Alternative]:
    # Nearer to 1, clothes over a naked body decide, not the camera.
    scales = [2 ** (step / 8) for step in range(-12, 13) if abs(step) > 1]
    return [
        Alternative(
            f"focal length x {scale:.2f}",
            f"the focal length is wrong: about {scale:.2f} times the one that was read fits",
            "write the camera's own focal length into the capture; trackers guess one, and then their translations "
            "hold only with that guess",
            of_other_focal_length(scale),
        )
        for scale in scales
    ]


_WORLD = "turn the poses' global orientation and translation into the cameras' world, or the cameras into the poses'"
_CAMERAS = "store world-to-camera matrices in OpenCV's axes (x right, y down, z forward)"
_IMAGES = "turn images and masks as the calibration saw them; mind the EXIF orientation of phones"

# Earlier rows win where two fit alike: the usual mistakes come first, and what can imitate others (focal length) last.
ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative(
        "Th as transl",
        "EasyMocap's Th was read as SMPL's transl: its Rh turns the body about the origin, not about the pelvis",
        "convert transl = Th + R(Rh) J_0 - J_0, or store the fit as EasyMocap's and name its --layout",
        about_the_origin,
    ),
    Alternative(
        "transl as Th",
        "SMPL's transl was read as EasyMocap's Th: the fit turns the body about the pelvis already",
        "convert Th = transl + J_0 - R(Rh) J_0, or store the fit as SMPL's and name its --layout",
        about_the_pelvis,
    ),
    Alternative(
        "inverted mask",
        "the masks are inverted: they cover the background",
        "store the person as white, or name the --layout whose masks are inverted",
        with_mask(np.logical_not),
    ),
    *(
        Alternative(
            f"pose of frame {offset:+d}",
            f"poses and images are off by one: image i shows the pose of frame i {'+' if offset > 0 else '-'} 1",
            "start both at the same number; videos and trackers count from 0 or from 1",
            with_pose(offset),
            0.01,  # a pose that is right has no better neighbour, over many frames
        )
        for offset in (1, -1)
    ),
    *_units(),
    *(
        Alternative(
            f"intrinsics x {scale:g}",
            f"the intrinsics belong to images of {scale**-1:g} times this size",
            f"multiply focal length and principal point by {scale:g}, or bring the images in their original size",
            of_other_size(scale),
        )
        for scale in (2, 0.5, 4, 0.25)
    ),
    Alternative(
        "OpenGL camera", "the cameras look along -z, as OpenGL's do", _CAMERAS, from_camera(lambda E: _FLIP @ E)
    ),
    Alternative(
        "camera-to-world",
        "the cameras' matrices are camera-to-world and were read as world-to-camera",
        _CAMERAS,
        from_camera(np.linalg.inv),
    ),
    Alternative(
        "OpenGL camera-to-world",
        "the cameras' matrices are camera-to-world in OpenGL's axes and were read as world-to-camera in OpenCV's",
        _CAMERAS,
        from_camera(lambda E: _FLIP @ np.linalg.inv(E)),
    ),
    *(
        Alternative(f"world about x by {degrees}", mistake, _WORLD, from_camera(lambda E, d=degrees: E @ _about_x(d)))
        for degrees, mistake in (
            (90, "the poses' world has y up, the cameras' z"),
            (-90, "the poses' world has z up, the cameras' y"),
            (180, "the poses' world stands on its head in the cameras'"),
        )
    ),
    Alternative("mirrored", "images and masks are mirrored", _IMAGES, with_mask(lambda mask: mask[:, ::-1])),
    Alternative("upside down", "images and masks are upside down", _IMAGES, with_mask(lambda mask: mask[::-1, ::-1])),
    *(
        Alternative(
            f"turned by {90 * times}",
            "images and masks are turned by 90 degrees",
            _IMAGES,
            with_mask(lambda mask, times=times: np.rot90(mask, times)),
        )
        for times in (1, 3)
    ),
    *_focal_lengths(),
)
