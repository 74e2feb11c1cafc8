"""Where the outline of the body should move to lie on the outline of the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from fmgs_dataparsers.files import decode
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.model import JOINT_NAMES, N_JOINTS
from fmgs_nerfstudio.body.view import view_mesh
from fmgs_nerfstudio.track.chain import Posed, logarithm
from fmgs_nerfstudio.track.landmarks import Calibration
from fmgs_nerfstudio.track.records import Sightings
from fmgs_nerfstudio.track.state import State
from fmgs_nerfstudio.track.terms import Evidence, gather

_TALL = 200  # pixels of the landmarks' box when outlines are compared
_POINTS = 90  # of an outline
_REACH = 0.08  # metres; what is farther from the mask's outline has no place on it
_FACING = 0.05  # metres that a contrary direction of the outline counts as
_DAMPING = 1e-4
_HELD = 0.15  # radians that a round may turn a joint
_LEAST_LONG, _LEAST_STEEP = 12, 0.05  # pixels of a contour; coverage per pixel
_ENOUGH = 50  # points of an outline that tell how a part is dressed
_ERR = 0.005  # metres: deviation of an outline's point, its neighbours' likeness included


SIDES = tuple(
    (joint, JOINT_NAMES.index(name.replace("left", "right")))
    for joint, name in enumerate(JOINT_NAMES)
    if "right" not in name
)
"""Each joint of the middle twice, or the left and the right one."""


@dataclass(frozen=True, eq=False)
class Outline:
    """N points of a body's outline in one frame, and how far off they are."""

    vertex: Int[Array, "N"]
    normal: Float[Array, "N 2"]
    """Outward, in the image."""
    gap: Float[Array, "N"]
    """How far outside of them the mask ends, metres."""
    points: Float[Array, "N 3"]
    """In the camera, metres."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The outline of a frame's mask, in a picture of the person alone, made smaller."""

    crop: Float[Array, "3 3"]
    """From the frame's pixels to the picture's."""
    size: tuple[int, int]
    """Width and height."""
    points: Float[Array, "N 2"]
    normal: Float[Array, "N 2"]
    """Outward."""


class Outlines:
    """Compares bodies of a clip with its masks, which lie in a folder by the number of their frame."""

    def __init__(self, body: BodyModel, sightings: Sightings, masks: Path) -> None:
        self.body, self.masks, self.sightings = body, masks, sightings
        self._faces = body.faces.numpy()
        self._shares = body.weights.double().numpy()

    def improve(self, state: State, evidence: Evidence) -> State:
        """One step with all that is known and the outlines, from rotations that are held about where they are."""
        equations = gather(state, evidence, grounded=True)
        share = evidence.share()
        outlines = [self.outline(state, frame) for frame in range(len(state.local))]
        dressed = self._dressed([o for o in outlines if o is not None], evidence.calibration)
        for frame, outline in enumerate(outlines):
            if outline is not None:
                at = slice(frame, frame + 1)
                rows = self.rows(state, state.posed(at), frame, outline, dressed)
                equations.add(at, *(values[None] * share[frame] for values in rows))
        hold = np.r_[np.full(3 * N_JOINTS, 1 / _HELD), np.zeros(3)]
        equations.add_diagonal(np.zeros_like(equations.right), np.outer(share, hold))
        own, shared, _ = equations.step(_DAMPING)
        return state.moved(own, shared)

    def outline(self, state: State, frame: int) -> Outline | None:
        """Of one frame; none where body or mask is not in the picture."""
        seen = self._seen[frame]
        if seen is None:
            return None
        K = seen.crop @ state.K
        pose = torch.from_numpy(logarithm(state.local[frame]).ravel()).float()
        betas = torch.from_numpy(state.betas).float()
        pelvis = state.skeleton.joints(state.betas)[0]
        shift = torch.from_numpy(state.pelvis[frame] - pelvis).float()
        vertices = self.body.vertices(betas, pose, shift).double().numpy()
        view = view_mesh(vertices, self._faces, K, np.eye(4), *seen.size)
        drawn, drawn_normal = _contour(view.silhouette.astype(np.float32))
        if len(drawn) < 20 or len(seen.points) < 20:
            return None
        chosen = np.linspace(0, len(drawn) - 1, _POINTS).round().astype(int)
        drawn, drawn_normal = drawn[chosen], drawn_normal[chosen]
        metre = state.pelvis[frame, 2] / K[0, 0]
        far = _FACING / metre
        tree = KDTree(np.c_[seen.points, far * seen.normal])
        distance, nearest = tree.query(np.c_[drawn, far * drawn_normal], distance_upper_bound=_REACH / metre)
        near = np.isfinite(distance)
        inside = np.clip((drawn - 0.7 * drawn_normal).astype(int), 0, np.array(seen.size) - 1)
        face = view.face[inside[:, 1], inside[:, 0]]
        near &= face >= 0
        corners = self._faces[face[near]]
        flat = vertices[corners] @ K.T
        away = np.linalg.norm(flat[..., :2] / flat[..., 2:] - drawn[near, None], axis=-1)
        vertex = corners[np.arange(len(corners)), away.argmin(1)]
        gap = ((seen.points[np.asarray(nearest)[near]] - drawn[near]) * drawn_normal[near]).sum(1) * metre
        return Outline(vertex, drawn_normal[near], gap, vertices[vertex])

    def _dressed(self, outlines: Sequence[Outline], calibration: Calibration) -> Float[Array, "24"]:
        """How far masks reach beyond the body at each joint's vertices, both sides alike, in the clip's median: clothes
        and hair, a shape that is not quite the person's, and what the network cuts off."""
        dressed = calibration.dressed.copy()
        if not outlines:
            return dressed
        joint = np.concatenate([self._shares[o.vertex].argmax(1) for o in outlines])
        gap = np.concatenate([o.gap for o in outlines])
        for one, other in SIDES:
            here = gap[(joint == one) | (joint == other)]
            if len(here) >= _ENOUGH:
                dressed[[one, other]] = np.median(here)
        return dressed

    def rows(
        self, state: State, posed: Posed, frame: int, outline: Outline, dressed: Float[Array, "24"]
    ) -> tuple[Float[Array, "N"], Float[Array, "N 75"], Float[Array, "N G"]]:
        """Residuals and derivatives of one frame; `posed` holds it alone."""
        weights = self._shares[outline.vertex]
        gap = outline.gap - weights @ dressed
        share = weights @ state.skeleton.above
        arms = (outline.points[:, None] - posed.joints[0]) * share[..., None]
        moves = posed.moves(arms[None])[0]
        turned = np.einsum("nj,jab->nab", weights, posed.turned[0])
        shapes = len(state.betas)
        bones = np.einsum("jab,jbs->jas", posed.turned[0], state.skeleton.shaped)
        directions = self.body.shapedirs[..., :shapes].numpy()[outline.vertex].astype(float)
        by_shape = turned @ directions + np.einsum("nj,jas->nas", weights, posed.by_shape[0] - bones)
        away = outline.points[:, 2:]
        middle = state.pelvis[frame, 2]
        project = np.c_[outline.normal, -(outline.normal * outline.points[:, :2] / away).sum(1)] * middle / away
        error = gap / _ERR
        weight = np.sqrt(5 / (4 + error**2)) / _ERR
        shared = np.zeros((len(gap), len(state.shared)))
        shared[:, :shapes] = np.einsum("na,nas->ns", project, by_shape)
        moved = np.einsum("na,nak->nk", project, moves)
        return -gap * weight, moved * weight[:, None], shared * weight[:, None]

    @cached_property
    def _seen(self) -> list[Seen | None]:
        """Of all frames: each round compares with the same."""
        return [self._see(frame) for frame in range(len(self.sightings.index))]

    def _see(self, frame: int) -> Seen | None:
        """None where the person is not in the picture."""
        path = self.masks / f"{self.sightings.index[frame]:06d}.png"
        mask = decode(path, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        points = self.sightings.landmarks[frame]
        size = np.ptp(points, axis=0).max()
        low = np.maximum((points.min(0) - 0.15 * size).astype(int), 0)
        high = np.minimum((points.max(0) + 0.15 * size).astype(int) + 1, mask.shape[::-1])
        if (high - low).min() < 8:
            return None
        mask = mask[low[1] : high[1], low[0] : high[0]]
        scale = min(1.0, _TALL / size)
        width, height = (max(round(n * scale), 1) for n in mask.shape[::-1])
        crop = np.diag([width / mask.shape[1], height / mask.shape[0], 1.0])
        shift = np.eye(3)
        shift[:2, 2] = -low
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        return Seen(crop @ shift, (width, height), *_contour(small))


def _contour(mask: Float[Array, "h w"]) -> tuple[Float[Array, "N 2"], Float[Array, "N 2"]]:
    """Points where coverage is a half, to a fraction of a pixel, and outward normals; not where the picture ends."""
    smooth = cv2.GaussianBlur(mask, (0, 0), 1.0)
    contours, _ = cv2.findContours((smooth > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.zeros((0, 2)), np.zeros((0, 2))
    found = [contour[:, 0] for contour in contours if len(contour) > _LEAST_LONG]
    points = np.concatenate([*found, np.zeros((0, 2), np.int32)])
    points = points[((points > 1) & (points < np.array(mask.shape[::-1]) - 2)).all(1)]
    column, row = points.T
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=1 / 8)[row, column] for axis in ((1, 0), (0, 1)))
    slope = np.stack([across, down], -1).astype(float)
    steep = np.linalg.norm(slope, axis=1, keepdims=True)
    outward = -slope / np.maximum(steep, 1e-9)
    beyond = (smooth[row, column][:, None] - 0.5) / np.maximum(steep, 1e-9)
    keep = steep[:, 0] > _LEAST_STEEP
    return (points + 0.5 + beyond.clip(-1, 1) * outward)[keep], outward[keep]
