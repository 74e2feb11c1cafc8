"""The dressed person: skinned surfaces on one skeleton, folds that come with the pose."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.sparse import csr_matrix

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo import garments, textures
from fmgs_nerfstudio.demo.easing import smoothstep
from fmgs_nerfstudio.demo.folds import Folds
from fmgs_nerfstudio.demo.garments import Garment
from fmgs_nerfstudio.demo.hair import hair
from fmgs_nerfstudio.demo.look import Look, sample_look
from fmgs_nerfstudio.demo.mesh import neighbour_mean, vertex_normals
from fmgs_nerfstudio.demo.skinned_surface import Anatomy, SkinnedSurface
from fmgs_nerfstudio.maps.classes import IDS


def wardrobe(anatomy: Anatomy, look: Look, detail: int) -> list[Garment]:
    """What the person of `look` wears."""
    skirt, cloth, small = look.legs == "skirt", detail >= 1, detail >= 2
    hem = -0.19 if skirt else -0.262
    worn = [
        garments.shirt(anatomy, cloth, look.sleeve, hem, look.shirt_loose, look.neck, tucked=skirt),
        garments.socks(anatomy, small, look.socks),
        garments.shoes(anatomy, cloth, sole=0.018),
    ]
    if skirt:
        worn.append(garments.skirt(anatomy, cloth, -0.125, look.leg_hem, 0.4 * -look.leg_hem - 0.14, pleats=11))
    else:
        taper = 0.55 if look.legs == "trousers" else 1.15
        worn.append(garments.trousers(anatomy, cloth, -0.15, look.leg_hem, look.leg_loose, taper))
    if look.watch:
        worn.append(garments.watch(anatomy, small))
    return worn


class Person:
    """A dressed person in rest pose, and how to pose them.

    Faces point outward; vertices are in metres, T-pose, y up, facing +z, pelvis where the demo body has it.
    """

    def __init__(self, seed: int, detail: int = 2) -> None:
        """`detail`: 0 for pictures of 128 pixels, 1 for 256, 2 for 512; the same person on finer meshes."""
        anatomy = Anatomy.load()
        self.look = sample_look(seed)
        worn = wardrobe(anatomy, self.look, detail)
        surfaces = [
            *_skin(anatomy, worn, detail >= 2),
            hair(anatomy, self.look.hair, seed, detail >= 2),
            *(g.surface for g in worn),
        ]
        self.surfaces = surfaces
        betas = np.array(self.look.betas)
        joints = anatomy.joints
        starts = np.cumsum([0, *(len(s.vertices) for s in surfaces)])
        self.vertices = np.concatenate([s.vertices + s.shapedirs @ betas for s in surfaces]).astype(np.float32)
        self.faces: Int[Array, "F 3"] = np.concatenate(
            [s.triangles + o for s, o in zip(surfaces, starts, strict=False)]
        )
        self.weights = csr_matrix(np.concatenate([s.weights for s in surfaces]).astype(np.float32))
        self.neighbours = csr_matrix(neighbour_mean(self.faces, len(self.vertices)), dtype=np.float32)
        around = csr_matrix((np.ones(self.faces.size), self.faces.ravel(), np.arange(0, self.faces.size + 1, 3)))
        self._faces_around = csr_matrix(around.T, dtype=np.float32)
        anchor = np.concatenate([s.anchor for s in surfaces])
        hem = np.concatenate([s.hem for s in surfaces])
        rest_normals = np.concatenate([vertex_normals(s.vertices, s.triangles) for s in surfaces])
        self._attributes = np.c_[anchor, rest_normals, hem].astype(np.float32)
        self._materials = [s.material for s in surfaces]
        self._face_material = np.repeat(np.arange(len(surfaces), dtype=np.uint8), [len(s.triangles) for s in surfaces])
        self.face_labels: UInt8[Array, "F"] = np.concatenate([_labels(s) for s in surfaces])
        strength = np.concatenate([np.full(len(s.vertices), s.folds) for s in surfaces])
        self._folds = Folds(strength, self.weights, anchor, joints, seed)
        self._skirt = [
            np.arange(a, b) for s, a, b in zip(surfaces, starts, starts[1:], strict=False) if s.material == "skirt"
        ]
        self.joints = joints

    def normals(self, points: Float[Array, "V 3"]) -> Float[Array, "V 3"]:
        """Area-weighted unit normals of the posed vertices."""
        a, b, c = points[self.faces.T]
        total = self._faces_around @ np.cross(b - a, c - a)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)

    def posed(self, bones: Float[Array, "24 4 4"], pose: Float[Array, "72"]) -> Float[Array, "V 3"]:
        """Vertices in the world: `bones` map T-pose points of the shaped body there; `pose` is their axis-angle."""
        blended = (self.weights @ bones[:, :3].reshape(24, 12).astype(np.float32)).reshape(-1, 3, 4)
        points = np.einsum("vij,vj->vi", blended[..., :3], self.vertices) + blended[..., 3]
        normals = self.normals(points)
        index, height = self._folds.height(pose)
        points[index] += normals[index] * height[:, None]
        for skirt in self._skirt:
            points[skirt] = _off_the_legs(points[skirt], bones, self.joints)
        return points

    def appearance(
        self, face: Int[Array, "N"], corner: Int[Array, "N 3"], barycentric: Float[Array, "N 3"]
    ) -> textures.Material:
        """Material at hits, given by their face, its vertices and barycentric coordinates."""
        values = np.einsum("nk,nka->na", barycentric.astype(np.float32), self._attributes[corner])
        out = textures.Material(*(np.zeros((len(face), *tail), np.float32) for tail in ((3,), (), (3,))))
        kind = self._face_material[face]
        for i, name in enumerate(self._materials):
            at = np.flatnonzero(kind == i)
            if len(at):
                hits = textures.Hits(values[at, :3], values[at, 3:6], values[at, 6])
                found = textures.material(name, hits, self.look)
                out.albedo[at], out.gloss[at], out.bleed[at] = found.albedo, found.gloss, found.bleed
        return out


def _labels(surface: SkinnedSurface) -> UInt8[Array, "F"]:
    centre = surface.anchor[surface.triangles].mean(1)
    left, right = {"socks": ("Left_Sock", "Right_Sock"), "shoes": ("Left_Shoe", "Right_Shoe")}.get(
        surface.material, ("", "")
    )
    if left:
        return np.where(centre[:, 0] > 0, IDS[left], IDS[right]).astype(np.uint8)
    if surface.material != "skin":
        return np.full(len(centre), surface.label, np.uint8)
    x, y = np.abs(centre[:, 0]), centre[:, 1]
    labels = np.full(len(centre), IDS["Torso"], np.uint8)
    for side, on in (("Left", centre[:, 0] > 0), ("Right", centre[:, 0] <= 0)):
        for part, inside in (
            ("Upper_Arm", (x > 0.185) & (y > 0.1)), ("Lower_Arm", (x > 0.463) & (y > 0.1)),
            ("Hand", (x > 0.716) & (y > 0.1)),
            ("Upper_Leg", y < -0.26), ("Lower_Leg", y < -0.676), ("Foot", y < -1.12),
        ):  # fmt: skip
            labels[on & inside] = IDS[f"{side}_{part}"]
    labels[(y > 0.30) & (x < 0.15)] = IDS["Face_Neck"]
    upper, lower = textures.lips(centre)
    labels[upper > 0.5], labels[lower > 0.5] = IDS["Upper_Lip"], IDS["Lower_Lip"]
    return labels


def _skin(anatomy: Anatomy, worn: list[Garment], fine: bool) -> list[SkinnedSurface]:
    """Body and eyes; what cloth covers by more than 5 cm is left out."""
    body = anatomy.surface("body", "skin", IDS["Torso"], levels=int(fine))
    covered = np.max([g.covers(body.anchor) for g in worn], axis=0)
    visible = body.patch(covered < 0.08)
    covered = np.max([g.covers(visible.anchor) for g in worn], axis=0)
    visible = visible.cut(0.05 - covered)
    return [visible, anatomy.surface("eyes", "eye", IDS["Face_Neck"], levels=1)]


def _off_the_legs(
    points: Float[Array, "V 3"], bones: Float[Array, "24 4 4"], joints: Float[Array, "24 3"]
) -> Float[Array, "V 3"]:
    """Push a skirt out of the posed thighs and calves (capsules)."""
    at = np.einsum("jik,jk->ji", bones[:, :3, :3], joints) + bones[:, :3, 3]
    for _ in range(2):
        for top, bottom, wide, narrow in (
            (1, 4, 0.098, 0.072),
            (2, 5, 0.098, 0.072),
            (4, 7, 0.072, 0.055),
            (5, 8, 0.072, 0.055),
        ):
            axis = at[bottom] - at[top]
            t = np.clip((points - at[top]) @ axis / (axis @ axis), 0, 1)
            away = points - (at[top] + t[:, None] * axis)
            distance = np.linalg.norm(away, axis=1)
            radius = wide + (narrow - wide) * t
            push = smoothstep(1.25, 0.9, distance / radius) * np.maximum(radius * 1.06 - distance, 0)
            points = points + away / np.maximum(distance, 1e-6)[:, None] * push[:, None]
    return points
