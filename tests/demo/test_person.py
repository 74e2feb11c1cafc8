"""Dressed people: clothes stand off the body, wrinkle with the pose and change with the seed."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.demo.look import sample_look
from fmgs_nerfstudio.demo.motion import novel_poses, training_clip
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.skinned_surface import BODY

REST = np.tile(np.eye(4), (24, 1, 1))


@pytest.fixture(scope="module", params=[0, 1, 2])
def person(request: pytest.FixtureRequest) -> Person:
    return Person(request.param, detail=0)


def test_clothes_stand_off_the_body(person: Person) -> None:
    with np.load(BODY) as file:
        shaped = file["v_template"] + file["shapedirs"] @ np.array(person.look.betas)
        body = trimesh.Trimesh(shaped, file["f"].astype(np.int64), process=False)
    start = 0
    for surface in person.surfaces:
        own = person.vertices[start : start + len(surface.vertices)]
        start += len(surface.vertices)
        if surface.material not in ("shirt", "trousers", "skirt"):
            continue
        near = KDTree(body.vertices).query(own)[1]
        height = np.einsum("vi,vi->v", own - body.vertices[near], body.vertex_normals[near])
        assert np.quantile(height, 0.02) > -0.004, surface.material  # millimetres ...
        assert 0.003 < np.median(height) < 0.08, surface.material
        assert np.quantile(height, 0.95) > 0.012, surface.material  # ... to centimetres


def test_faces_point_outward(person: Person) -> None:
    starts = np.cumsum([0, *(len(s.vertices) for s in person.surfaces)])
    for surface, start in zip(person.surfaces, starts, strict=False):
        if surface.material in ("shirt", "trousers", "skirt", "hair"):
            v = person.vertices[start : start + len(surface.vertices)]
            f = surface.triangles
            normal = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
            centre = v[f].mean(1)
            horizontal = centre - [0, 0, centre[:, 2].mean()]
            horizontal[:, 1] = 0
            assert np.mean(np.einsum("fi,fi->f", normal, horizontal) > 0) > 0.6, surface.material


def test_folds_come_with_the_pose(person: Person) -> None:
    straight, bent = np.zeros(72), np.zeros(72)
    bent[[3 * 18 + 1, 3 * 4, 3 * 1]] = -1.5, 1.2, -1.0  # elbow, knee, hip
    still, moved = (person.posed(REST, pose) - person.vertices for pose in (straight, bent))
    difference = np.linalg.norm(moved - still, axis=1)
    assert 0.002 < difference.max() < 0.02
    cloth = np.repeat([s.folds > 0 for s in person.surfaces], [len(s.vertices) for s in person.surfaces])
    assert difference[~cloth].max() < 1e-6  # skin, hair and shoes do not fold
    assert (difference > 1e-3).mean() < 0.5  # and cloth only near those joints
    np.testing.assert_allclose(person.posed(REST, bent), person.posed(REST, bent))


def test_rigid_motion_moves_everything_rigidly(person: Person) -> None:
    transform = np.eye(4)
    transform[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    transform[:3, 3] = [1, 2, 3]
    pose = np.zeros(72)
    still = person.posed(REST, pose)
    moved = person.posed(np.tile(transform, (24, 1, 1)), pose)
    np.testing.assert_allclose(moved, still @ transform[:3, :3].T + transform[:3, 3], atol=2e-5)


def test_looks_change_with_the_seed() -> None:
    looks = [sample_look(seed) for seed in range(12)]
    assert sample_look(5) == looks[5]
    for name in (
        "betas",
        "skin",
        "hair",
        "hair_colour",
        "shirt",
        "shirt_colours",
        "legs",
        "trousers",
        "shoe_colours",
        "sleeve",
    ):
        assert len({getattr(look, name) for look in looks}) >= 3, name
    assert {look.legs for look in looks} == {"shorts", "trousers", "skirt"}


def test_training_clip_shows_all_sides_and_differs_from_novel_poses() -> None:
    clip = training_clip(100, 0).pose
    front = Rotation.from_rotvec(clip[:, :3]).apply([0, 0, 1])
    np.testing.assert_allclose(front[0, 1], -1, atol=0.1)  # toward the camera
    azimuth = np.unwrap(np.arctan2(front[:, 1], front[:, 0]))
    assert np.ptp(azimuth) > 2 * np.pi
    novel = novel_poses(6, 0).pose
    limb = np.abs(novel[:, None, 3:] - clip[None, :, 3:]).max(-1).min(1)
    assert limb.min() > 0.3  # no novel pose is a training pose
    assert np.abs(training_clip(100, 1).pose - clip).max() > 0.3
