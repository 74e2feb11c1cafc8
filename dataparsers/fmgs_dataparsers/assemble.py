"""From what a reader found to a `Capture`: frames are checked, their fits become one table, one shape is chosen.

An image that cannot be used (missing, unreadable, of another size, without a mask, without parameters, without a
person) is left out and reported; a capture of which no training image is left is refused. Decoding 5,000 images would
take minutes: only headers and ends of files are read, and those masks that could be empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from fmgs_dataparsers.capture import Capture, CaptureError, Frame, LeftOut, PinholeCamera, Split
from fmgs_dataparsers.conventions import BodyFile, Fit, PixelCentres, our_intrinsics, upward
from fmgs_dataparsers.files import IMAGE_SUFFIXES, image_size, is_whole
from fmgs_dataparsers.mask_folder import FolderMask, MaskFolder, alpha_of, around
from fmgs_dataparsers.masks import MaskSource, NoMask, PriorMask
from fmgs_dataparsers.plausible import ImpossibleError, camera_fault, check_body, names_of
from fmgs_dataparsers.protocols import ChosenSplit, choose
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.maps.maps import Priors, open_priors

Gender = Literal["auto", "neutral", "male", "female"]
CAMERA = "camera"
"""Name of the camera of a capture that has one."""
_FRAMES_FOR_IDS = 8
_NEAREST = 0.1  # metres before a camera
_LEAST_COVERAGE = 1e-4  # share of an image below which its mask holds no person, or nothing but a person


@dataclass(frozen=True)
class ReadOptions:
    """What a user may say about a capture."""

    protocol: str = "auto"
    body_model: Path | None = None
    gender: Gender = "auto"
    downscale: int | None = None
    need_masks: bool = True
    """Off: frames without a usable mask are kept, with `NoMask`."""
    pixel_centres: PixelCentres = "whole"
    """Those of the calibration in the files."""

    def body(self, root: Path, gender: str = "neutral") -> BodyFile:
        """The body model: for the user's gender, or else for the one that the capture says."""
        return BodyFile.find(gender if self.gender == "auto" else self.gender, [self.body_model, root])


@dataclass(frozen=True)
class Calibration:
    """A camera as far as a reader knows it (see `PinholeCamera`)."""

    K: Float[Array, "3 3"]
    """As the file has it; `assemble` brings its pixel centres to +0.5."""
    world_to_camera: Float[Array, "4 4"]
    distortion: Float[Array, "5"] | None = None
    size: tuple[int, int] | None = None
    """Width and height; none: that of most of its images."""
    file: Path | None = None
    """Where it was read."""


@dataclass(frozen=True)
class Shot:
    """An image that the split names, before anybody has looked whether it is there."""

    camera: str
    image: Path
    mask: MaskSource | None
    frame_index: int
    """What `Recording.fit` is asked with; images that cameras take at the same time share it."""

    @property
    def name(self) -> str:
        return f"{self.camera}/{self.image.stem}"


@dataclass(frozen=True, eq=False)
class Recording:
    """What a reader found."""

    root: Path
    layout: str
    split: ChosenSplit
    cameras: Mapping[str, Calibration]
    shots: Mapping[Split, Sequence[Shot]]
    fit: Callable[[int], Fit]
    """The fit of a frame index; a CaptureError where there is none or a broken one."""
    body: BodyFile
    up: tuple[float, float, float] | None = None
    """None: the person's mean upward direction."""


def assemble(recording: Recording, options: ReadOptions) -> Capture:
    """Check the frames, gather their fits, and report what is left out.

    Raises:
        CaptureError: no training image can be used, or a camera or a fit has values that are impossible.
    """
    priors = open_priors(recording.root)
    bare = dict.fromkeys(shot.image for members in recording.shots.values() for shot in members if shot.mask is None)
    cut_outs = alpha_of([image for image in bare if image.is_file()])
    shots: dict[Split, list[Shot]] = {
        split: [_with_mask(shot, cut_outs, priors, options.need_masks) for shot in members]
        for split, members in recording.shots.items()
    }
    checks = _Checks(recording, [shot for members in shots.values() for shot in members])
    left_out = tuple(
        LeftOut(split, shot.name, *checks.faults[shot])
        for split, members in shots.items()
        for shot in members
        if shot in checks.faults
    )
    good: dict[Split, list[Shot]] = {
        split: [shot for shot in members if shot not in checks.faults] for split, members in shots.items()
    }
    report = _report(left_out)
    if not good["train"]:
        raise CaptureError(f"{recording.root}: no training image can be used.\n{report or '  the split names none'}")
    _refuse_impossible(recording, checks, good)
    if report:
        log(f"{recording.root}: left out\n{report}")
    indices = sorted({shot.frame_index for members in good.values() for shot in members})
    row = {index: row for row, index in enumerate(indices)}
    fits = [checks.fits[index] for index in indices]
    poses = np.stack([fit.pose for fit in fits])
    # One person has one shape: the training frames'. Each pelvis stays where its own fit had put it.
    trained = sorted({row[shot.frame_index] for shot in good["train"]})
    n_betas = min(*(len(fits[i].betas) for i in trained), recording.body.model.shapedirs.shape[-1])
    betas = np.mean([fits[i].betas[:n_betas] for i in trained], axis=0)
    transl = np.stack([fit.pelvis for fit in fits]) - recording.body.joints(betas)[0]
    used = {shot.camera for members in good.values() for shot in members}
    cameras = {
        name: _camera(calibration, checks.sizes[name], options.pixel_centres)
        for name, calibration in recording.cameras.items()
        if name in used
    }
    return Capture(
        root=recording.root,
        layout=recording.layout,
        protocol=recording.split.name,
        cameras=cameras,
        splits={split: tuple(_frame(shot, row) for shot in members) for split, members in good.items()},
        poses=poses,
        transl=transl,
        betas=betas,
        body_model=recording.body.path,
        up=recording.up or upward(poses),
        priors=priors,
        downscale=_downscale(options.downscale, [size for c in cameras.values() for size in (c.width, c.height)]),
        background=recording.split.background,
        left_out=left_out,
        pixel_centres=options.pixel_centres,
        exact_poses=recording.split.exact_poses,
    )


def monocular(
    root: Path,
    layout: str,
    options: ReadOptions,
    *,
    protocol: str,
    images: Sequence[Path],
    mask: Callable[[int], MaskSource | None],
    calibration: Callable[[int], Calibration],
    fit: Callable[[int], Fit],
    body: BodyFile,
    split: ChosenSplit | None = None,
) -> Capture:
    """A capture by one camera: mask, calibration and fit of the i-th image. A given `split` is the protocol's.

    Raises:
        CaptureError: as `assemble`.
    """
    if not images:
        raise CaptureError(f"{root}: {layout} has its images in {root / 'images'}, and there are none")
    chosen = split or choose(options.protocol, protocol, root, [CAMERA], len(images))
    # A zoom or a change of distortion makes another camera.
    names: dict[bytes, str] = {}
    cameras: dict[str, Calibration] = {}
    shots: dict[Split, list[Shot]] = {}
    for name, members in chosen.indices.items():
        shots[name] = []
        for _, i in members:
            found = calibration(i)
            parts = (found.K, found.world_to_camera, found.distortion)
            key = b"".join(part.tobytes() for part in parts if part is not None)
            camera = names.setdefault(key, f"{CAMERA}_{len(names)}" if names else CAMERA)
            cameras.setdefault(camera, found)
            shots[name].append(Shot(camera, images[i], mask(i), i))
    return assemble(Recording(root, layout, chosen, cameras, shots, fit, body), options)


class _Checks:
    """Faults of shots: (reason, detail) by shot; sizes of cameras; fits by frame index."""

    def __init__(self, recording: Recording, shots: Sequence[Shot]) -> None:
        self.faults: dict[Shot, tuple[str, str]] = {}
        self.fits: dict[int, Fit] = {}
        self.impossible: dict[int, ImpossibleError] = {}
        unique = list(dict.fromkeys(shots))
        sizes = {shot: self._image(shot) for shot in unique}
        self.sizes = {
            name: calibration.size or _most_common(sizes[shot] for shot in unique if shot.camera == name)
            for name, calibration in recording.cameras.items()
        }
        broken = self._fits(recording, sorted({shot.frame_index for shot in unique}))
        for shot in unique:
            if shot not in self.faults:
                fault = broken.get(shot.frame_index) or _size_fault(shot, sizes[shot], self.sizes[shot.camera])
                if fault is not None:
                    self.faults[shot] = fault
        self._settle_masks(recording, unique)
        for size in set(self.sizes.values()):
            alike = [shot for shot in unique if shot not in self.faults and self.sizes[shot.camera] == size]
            self.faults |= _without_person(alike)

    def _image(self, shot: Shot) -> tuple[int, int] | None:
        try:
            size = image_size(shot.image)
        except CaptureError as error:
            self.faults[shot] = ("unreadable" if shot.image.exists() else "missing", str(error))
            return None
        if not is_whole(shot.image):
            self.faults[shot] = ("unreadable", f"{shot.image} is truncated; copy it again from its source")
        return size

    def _settle_masks(self, recording: Recording, shots: Sequence[Shot]) -> None:
        """Say what the masks of each folder mean; where that is ids, find the person by the body of some frames."""
        folders: dict[MaskFolder, list[tuple[Shot, FolderMask]]] = {}
        for shot in shots:
            if isinstance(shot.mask, FolderMask) and shot not in self.faults and shot.frame_index in self.fits:
                folders.setdefault(shot.mask.folder, []).append((shot, shot.mask))
        for folder, members in folders.items():
            told = folder.meaning.told
            if len(folder.meaning.ids) > 1 and not folder.inverted:
                some = members[:: -(-len(members) // _FRAMES_FOR_IDS)]
                told = folder.choose_person(
                    (mask.values(), self._body(recording, shot, mask.size())) for shot, mask in some
                )
            if told:
                log(f"{folder.place}: masks {told}")

    def _body(self, recording: Recording, shot: Shot, size: tuple[int, int]) -> Bool[Array, "H W"]:
        """Where the fitted body is in an image; half a pixel does not matter here."""
        fit, body, camera = self.fits[shot.frame_index], recording.body, recording.cameras[shot.camera]
        values = (fit.betas, fit.pose, fit.pelvis - body.joints(fit.betas)[0])
        vertices = body.model.vertices(*(torch.from_numpy(value).float() for value in values)).numpy()
        local = vertices @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
        local = local[local[:, 2] > _NEAREST]
        distortion = np.zeros(5) if camera.distortion is None else camera.distortion
        pixels = cv2.projectPoints(local.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), camera.K, distortion)[0]
        return around(pixels.reshape(-1, 2), *size)

    def _fits(self, recording: Recording, indices: Sequence[int]) -> dict[int, tuple[str, str]]:
        broken = {}
        for index in indices:
            try:
                self.fits[index] = fit = recording.fit(index)
                check_body(recording.root, fit.pose, fit.pelvis, fit.betas)
            except ImpossibleError as error:
                self.impossible[index] = error
            except CaptureError as error:
                broken[index] = ("without parameters", str(error))
        return broken


def _refuse_impossible(recording: Recording, checks: _Checks, good: Mapping[Split, Sequence[Shot]]) -> None:
    shots = list(dict.fromkeys(shot for members in good.values() for shot in members))
    faults = {
        name: fault
        for name in dict.fromkeys(shot.camera for shot in shots)
        for camera in [recording.cameras[name]]
        if (fault := camera_fault(camera.K, camera.world_to_camera, checks.sizes[name]))
    }
    if faults:
        first, fault = next(iter(faults.items()))
        file = recording.cameras[first].file or recording.root
        raise ImpossibleError(f"{file}: camera {names_of(list(faults))}: {fault}; correct the calibration")
    if impossible := [shot for shot in shots if shot.frame_index in checks.impossible]:
        raise ImpossibleError(
            f"{recording.root}: {len(impossible)} of {len(shots)} images have a fit that is none: "
            f"{names_of([shot.name for shot in impossible])}\n"
            f"  ({checks.impossible[impossible[0].frame_index]}). Correct it, or write NaN: such frames are left out"
        )


def _size_fault(shot: Shot, size: tuple[int, int] | None, expected: tuple[int, int]) -> tuple[str, str] | None:
    if size != expected:
        found = "unknown" if size is None else f"{size[0]} x {size[1]}"
        return "of another size", f"{shot.image} has {found} pixels; its camera has {expected[0]} x {expected[1]}"
    if shot.mask is None:
        return "without a mask", f"there is no mask for {shot.image}"
    try:
        mask_size = shot.mask.size()
    except CaptureError as error:
        return "without a mask", str(error)
    if mask_size != expected:
        found, wanted = f"{mask_size[0]} x {mask_size[1]}", f"{expected[0]} x {expected[1]}"
        return "with a mask of another size", f"{shot.mask.file} has {found} pixels; its image has {wanted}"
    return None


def _without_person(shots: Sequence[Shot]) -> dict[Shot, tuple[str, str]]:
    """Those of images of one size whose mask is empty or covers everything. No image packs smaller than one that is the
    same everywhere, so the smallest files are decoded, until 16 in a row have a person; arrays, not packed, all."""
    made = [(shot, shot.mask.file) for shot in shots if shot.mask and not isinstance(shot.mask, NoMask)]
    masks = [(file.stat().st_size, shot) for shot, file in made]
    faults: dict[Shot, tuple[str, str]] = {}
    row = 0
    for _, shot in sorted(masks, key=lambda mask: mask[0]):
        fault = _person_fault(shot)
        if fault is not None:
            faults[shot] = fault
        row = 0 if fault else row + 1
        if row == 16 and shot.mask and shot.mask.file.suffix.lower() in IMAGE_SUFFIXES:
            break
    return faults


def _person_fault(shot: Shot) -> tuple[str, str] | None:
    assert shot.mask is not None
    try:
        covered = shot.mask.read().mean()
    except CaptureError as error:
        return "without a mask", str(error)
    if covered > 1 - _LEAST_COVERAGE:
        return "without an outline", f"the mask {shot.mask.file} covers the whole image"
    return None if covered >= _LEAST_COVERAGE else ("without a person", f"the mask {shot.mask.file} is empty")


def _most_common(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int]:
    counts = Counter(size for size in sizes if size is not None)
    return counts.most_common(1)[0][0] if counts else (0, 0)


def _with_mask(shot: Shot, cut_outs: MaskFolder | None, priors: Priors | None, needed: bool) -> Shot:
    """Its own mask, else its image's alpha, else that among the prior maps, else none, or `NoMask` where none is
    needed."""
    mask, stem = shot.mask, shot.image.stem
    if mask is None and cut_outs is not None:
        mask = cut_outs.mask(shot.image)
    if mask is None and priors is not None and priors.exists("mask", shot.camera, stem):
        mask = PriorMask(priors, shot.camera, stem)
    if not needed and (mask is None or not mask.file.exists()):
        mask = NoMask(shot.image)
    return replace(shot, mask=mask)


def _camera(calibration: Calibration, size: tuple[int, int], pixel_centres: PixelCentres) -> PinholeCamera:
    width, height = size
    K = our_intrinsics(calibration.K, pixel_centres)
    return PinholeCamera(K, calibration.world_to_camera, width, height, calibration.distortion)


def _downscale(wanted: int | None, sides: Sequence[int]) -> int:
    if wanted is None:
        return max(1, round(max(sides) / 512))
    if not 1 <= wanted <= min(sides):
        raise CaptureError(f"--downscale-factor is {wanted}; expected 1 to {min(sides)}, the images' shorter side")
    return wanted


def _frame(shot: Shot, row: Mapping[int, int]) -> Frame:
    assert shot.mask is not None
    return Frame(shot.camera, shot.image.stem, shot.image, shot.mask, row[shot.frame_index])


def _report(left_out: Sequence[LeftOut]) -> str:
    lines = []
    for reason in dict.fromkeys(item.reason for item in left_out):
        members = [item for item in left_out if item.reason == reason]
        names = ", ".join(item.name for item in members[:6]) + (", ..." if len(members) > 6 else "")
        lines.append(f"  {len(members)} {reason}: {names}\n    ({members[0].detail})")
    return "\n".join(lines)
