"""How far the learned surface is from the true one, where a capture knows it (fmgs-demo's ground truth)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.files import entries, read_npz, stack
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.export.surface import deform, displaced_surface
from fmgs_nerfstudio.frozen import FrozenAvatar

POINTS = 20_000


@dataclass(frozen=True)
class Distances:
    """Unsigned distances of points spread evenly over a surface to another surface, millimetres."""

    mean: float
    p95: float

    @classmethod
    def of(cls, source: trimesh.Trimesh, target: trimesh.Trimesh) -> Distances:
        points = np.asarray(trimesh.sample.sample_surface(source, POINTS, seed=0)[0])
        distances = 1000 * distances_to(points, target)
        return cls(float(distances.mean()), float(np.percentile(distances, 95)))


def distances_to(points: Float[Array, "P 3"], mesh: trimesh.Trimesh) -> Float[Array, "P"]:
    """Distance of each point, metres, to the nearest triangle; in single precision (0.1 um on a person)."""
    from open3d.core import Tensor  # takes seconds
    from open3d.t.geometry import RaycastingScene

    as_tensor = Tensor.from_numpy
    scene = RaycastingScene()
    scene.add_triangles(as_tensor(mesh.vertices.astype(np.float32)), as_tensor(mesh.faces.astype(np.uint32)))
    return scene.compute_distance(as_tensor(points.astype(np.float32))).numpy()


def geometry_error(avatar: FrozenAvatar, capture: Capture) -> dict[str, dict[str, float]]:
    """Errors in millimetres over all training and novel poses whose surface is known; empty where none is.

    `to_truth`: from the learned surface to the true one; `from_truth`: from the true one, which includes the little
    skin that cloth hides, to the learned one.
    """
    folder = capture.root / "ground_truth" / "surface"
    model, found = avatar.model, {}
    for split in ("train", "novel_pose"):
        frames = capture.splits[split]
        known = {frame.stem: frame.pose_id for frame in frames if (folder / f"{frame.stem}.npz").is_file()}
        pairs = [_errors(avatar, model.pose_now(pose_id), folder / f"{stem}.npz") for stem, pose_id in known.items()]
        if pairs:
            columns = ("to_truth_mean", "to_truth_p95", "from_truth_mean", "from_truth_p95")
            found[split] = dict(zip(columns, np.mean(pairs, axis=0).tolist(), strict=True))
    return found


def _true_mesh(vertices_file: Path, faces_file: Path) -> trimesh.Trimesh:
    (vertices,) = entries(vertices_file, read_npz(vertices_file), "vertices")
    (faces,) = entries(faces_file, read_npz(faces_file), "faces")
    vertices, faces = stack(vertices_file, "vertices", vertices, 3), stack(faces_file, "faces", faces, 3)
    if not (np.isfinite(vertices).all() and faces.size and faces.min() >= 0 and faces.max() < len(vertices)):
        raise CaptureError(f"{vertices_file} and {faces_file} are no mesh; make the capture again")
    return trimesh.Trimesh(vertices, faces.astype(np.int64), process=False)


@torch.inference_mode()
def _errors(avatar: FrozenAvatar, pose: tuple[torch.Tensor, torch.Tensor], path: Path) -> list[float]:
    model = avatar.model
    canonical, faces = displaced_surface(model, avatar.pose(*pose))
    vertices = deform(canonical, model.skinning(canonical), model.canonical(*pose)[1]).numpy(force=True)
    true = _true_mesh(path, path.with_name("faces.npz"))
    learned = trimesh.Trimesh(vertices, faces.numpy(force=True), process=False)
    there, back = Distances.of(learned, true), Distances.of(true, learned)
    return [there.mean, there.p95, back.mean, back.p95]
