"""SMPL model files and what is computed from them. The arithmetic is smplx's; ours is the loader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import smplx.lbs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.kernels.bones import bones_in_few, bones_on_cpu
from fmgs_nerfstudio.kernels.compiled import takes
from fmgs_nerfstudio.unpickle import read_npz, read_pickle

N_JOINTS = 24
JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
# smplx annotates its functions with a NewType that no torch tensor satisfies.
_smplx: Any = smplx.lbs
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
# As registered users get them: SMPL for Python v1.0.0 (10 betas), v1.1.0 (300), and smplx's own names. Case varies.
FILE_NAMES = {
    gender: (
        *(f"SMPL_{gender.upper()}.{suffix}" for suffix in ("npz", "pkl")),
        *(
            f"basicmodel_{short}_lbs_10_207_0_v{version}.{suffix}"
            for version in ("1.1.0", "1.0.0")
            for suffix in ("pkl", "npz")
        ),
    )
    for gender, short in (("neutral", "neutral"), ("male", "m"), ("female", "f"))
}


@dataclass(frozen=True, eq=False)
class BodyModel:
    """A body in SMPL's schema: V vertices, F faces, 24 joints, S shape directions; metres and radians."""

    v_template: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    shapedirs: Float[Tensor, "V 3 S"]
    posedirs: Float[Tensor, "207 3V"]
    J_regressor: Float[Tensor, "24 V"]
    weights: Float[Tensor, "V 24"]
    parents: tuple[int, ...]

    @staticmethod
    def load(path: Path) -> BodyModel:
        """Read an official `.pkl` (no chumpy needed) or an `.npz` with the same keys.

        Raises:
            ValueError: the file is broken or not in SMPL's schema; names the file and what is missing.
        """
        data = _read(path)
        n_vertices = len(data["v_template"])

        def tensor(value: Array) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))

        return BodyModel(
            v_template=tensor(data["v_template"]),
            faces=torch.from_numpy(data["f"].astype(np.int64)),
            shapedirs=tensor(data["shapedirs"]),
            posedirs=tensor(data["posedirs"].reshape(3 * n_vertices, -1).T),
            J_regressor=tensor(data["J_regressor"]),
            weights=tensor(data["weights"]),
            parents=_parents(path, data["kintree_table"]),
        )

    def shape(self, betas: Float[Tensor, "S"]) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "24 3"]]:
        """Vertices and joints of the shaped T-pose. Fewer betas than shape directions: the rest are zero."""
        vertices = self.v_template + _smplx.blend_shapes(betas[None], self.shapedirs[..., : len(betas)])[0]
        return vertices, _smplx.vertices2joints(self.J_regressor, vertices[None])[0]

    def bones(
        self, joints: Float[Tensor, "24 3"], pose: Float[Tensor, "*batch 72"], transl: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch 24 4 4"]:
        """B_b of Eq. 10 from the T-pose: maps its points to the posed world (in smplx's sense: about the pelvis)."""
        if joints.requires_grad:
            return self.bones_reference(joints, pose, transl)
        if pose.ndim == transl.ndim == 1 and takes(joints, pose, transl):
            return bones_on_cpu(joints, pose, transl, self.parents)
        if pose.is_cuda:
            many = bones_in_few(joints, pose.reshape(-1, 72), transl.reshape(-1, 3), self.parents)
            return many.view(*pose.shape[:-1], N_JOINTS, 4, 4)
        return self.bones_reference(joints, pose, transl)

    def bones_reference(
        self, joints: Float[Tensor, "24 3"], pose: Float[Tensor, "*batch 72"], transl: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch 24 4 4"]:
        """`bones` by smplx, for any device and dtype, and for many poses at once."""
        rotations = _smplx.batch_rodrigues(pose.reshape(-1, 3)).view(-1, N_JOINTS, 3, 3)
        parents = torch.tensor(self.parents)  # on the CPU: smplx reads them one by one
        _, bones = _smplx.batch_rigid_transform(rotations, joints.expand(len(rotations), -1, -1), parents, pose.dtype)
        moved = bones + torch.nn.functional.pad(transl.reshape(-1, 1, 3, 1), (3, 0, 0, 1))
        return moved.view(*pose.shape[:-1], N_JOINTS, 4, 4)

    def vertices(
        self, betas: Float[Tensor, "S"], pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]
    ) -> Float[Tensor, "V 3"]:
        """The posed body with SMPL's pose blend shapes, in metres."""
        parents = torch.tensor(self.parents)
        shapedirs = self.shapedirs[..., : len(betas)]
        posed, _ = _smplx.lbs(
            betas[None], pose[None], self.v_template, shapedirs, self.posedirs, self.J_regressor, parents, self.weights
        )
        return posed[0] + transl


def _read(path: Path) -> dict[str, Array]:
    """SMPL's arrays, of the right shapes and finite."""
    data = read_npz(path, _KEYS) if path.suffix == ".npz" else read_pickle(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not an SMPL model file: it holds a {type(data).__name__}, not a dictionary")
    if missing := [key for key in _KEYS if key not in data]:
        raise ValueError(f"{path} is not an SMPL model file: it lacks {', '.join(missing)}")
    try:
        dense = {key: value.toarray() if hasattr(value := data[key], "toarray") else value for key in _KEYS}
        arrays = {key: np.asarray(value) for key, value in dense.items()}
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not an SMPL model file: {error}") from error
    V = len(np.atleast_1d(arrays["v_template"]))
    F = 2 * V - 4  # a closed surface without holes
    shapes = {
        "v_template": (V, 3), "f": (F, 3), "shapedirs": (V, 3, None), "posedirs": (V, 3, 9 * (N_JOINTS - 1)),
        "J_regressor": (N_JOINTS, V), "weights": (V, N_JOINTS), "kintree_table": (2, N_JOINTS),
    }  # fmt: skip
    for key, shape in shapes.items():
        found = arrays[key]
        if len(found.shape) != len(shape) or any(m not in (None, n) for m, n in zip(shape, found.shape, strict=True)):
            raise ValueError(
                f"{path}: expected {key} of shape {shape}, as SMPL's 24 joints have it, and found {found.shape}; "
                "SMPL-H and SMPL-X bodies are not supported"
            )
        if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
            raise ValueError(f"{path}: {key} holds something else than finite numbers; get the file again")
    if arrays["f"].min() < 0 or arrays["f"].max() >= V:
        raise ValueError(f"{path}: f names vertices that are not there; get the file again")
    return arrays


def _parents(path: Path, kintree_table: Int[Array, "2 24"]) -> tuple[int, ...]:
    parents = (-1, *(int(parent) for parent in kintree_table[0, 1:]))
    is_tree = all(0 <= parent < joint for joint, parent in enumerate(parents[1:], 1))
    if not is_tree or list(parents) != sorted(parents):  # level by level, as SMPL's
        raise ValueError(f"{path}: kintree_table is no tree of joints; get the file again")
    return parents


def find_body_model(gender: str, places: Sequence[Path | None]) -> Path:
    """The body model file for `gender` in the first of `places` (a file, a folder, or none), then in `$SMPL_MODEL_DIR`.

    Raises:
        FileNotFoundError: nothing found; says where to get the file, its name, and where it was looked for.
    """
    environment = os.environ.get("SMPL_MODEL_DIR")
    searched: list[str] = []
    for place in [*places, Path(environment) if environment else None]:
        if place is None:
            continue
        if place.is_file():
            return place
        for folder in (place, place / "smpl"):
            there = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
            for name in FILE_NAMES[gender]:
                if name.lower() in there:
                    return there[name.lower()]
        searched.append(str(place))
    raise FileNotFoundError(
        f"No SMPL body model for gender '{gender}'.\n"
        f"  looked in : {', '.join(searched) or 'nowhere'}"
        f"{'' if environment else ' ($SMPL_MODEL_DIR is not set)'}\n"
        f"  for a file: {', '.join(FILE_NAMES[gender])} (upper or lower case)\n"
        "  get it    : register at https://smpl.is.tue.mpg.de, download SMPL for Python, put the file into a folder\n"
        "              named by $SMPL_MODEL_DIR or by --pipeline.datamanager.dataparser.body-model"
    )
