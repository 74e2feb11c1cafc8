"""From the world to pixels and back, against OpenCV and nerfstudio: where half a pixel and a sign can hide."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nerfstudio.cameras.cameras import Cameras, CameraType
from scipy.spatial.transform import Rotation
from support.draws import apply, assert_close, axes, axiom, cameras, dtypes, rigid_motions, rotation_vectors, tensors
from support.rendering_scenes import to_dtype
from torch import Tensor

from fmgs_nerfstudio.data import crop_to_person
from fmgs_nerfstudio.rendering import Camera, Layer, depth_to_normal, facing_away, rasterize, surfel_normals
from fmgs_nerfstudio.rendering.projection import project, ray_transforms

N = 4
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
places = arrays(np.float64, (N, 2), elements=st.floats(0.1, 0.9))
"""Of points in the image, as shares of its sides."""
distances = arrays(np.float64, (N, 1), elements=st.floats(1.0, 4.0))
"""z-depths, metres."""


def pixels_in(camera: Camera, share: np.ndarray) -> Tensor:
    return torch.from_numpy(share * [camera.width, camera.height])


def back_projected(camera: Camera, pixels: Tensor, z: Tensor) -> Tensor:
    """World points [N, 3] that are seen at `pixels` in depth `z`, by inverse matrices."""
    whole = torch.cat([pixels, torch.ones_like(z)], dim=1)
    return apply(torch.linalg.inv(camera.viewmat), z * (whole @ torch.linalg.inv(camera.K).T))


def small_tangents(camera: Camera, count: int, sigma: float) -> Tensor:
    """Of discs that face the camera, `sigma` metres wide."""
    return sigma * camera.viewmat[:2, :3].T.expand(count, 3, 2)


def seen_at(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Pixels [N, 2] and depths [N] of points, as the renderer has them."""
    M = ray_transforms(points, small_tangents(camera, len(points), 1e-3).to(points), camera)
    return M[:, :2, 2] / M[:, 2:, 2], M[:, 2, 2]


def in_nerfstudio(camera: Camera) -> Cameras:
    to_world = torch.linalg.inv(camera.viewmat) @ FLIP
    fx, fy, cx, cy = (float(camera.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Cameras(
        to_world[None, :3].float(), fx, fy, cx, cy, camera.width, camera.height, camera_type=CameraType.PERSPECTIVE
    )


@axiom
@given(cameras(), places, distances, dtypes)
def test_project_and_back(camera: Camera, share: np.ndarray, z: np.ndarray, dtype: torch.dtype) -> None:
    pixels, depth = pixels_in(camera, share), torch.from_numpy(z)
    points = back_projected(camera, pixels, depth).to(dtype)
    camera = to_dtype(camera, dtype)
    found, found_depth = seen_at(points, camera)
    assert_close(found, pixels.to(dtype), single=1e-3, double=1e-9)
    assert_close(found_depth, depth[:, 0].to(dtype), single=1e-5)
    projection = project(points, small_tangents(camera, N, 1e-3), camera)
    assert projection.valid.all()
    assert_close(projection.depths, found_depth, single=1e-6)
    assert_close(projection.means2d, found, single=0.01, double=1e-3)  # a box' middle, of a small disc


@axiom
@given(cameras(), places, distances, rotation_vectors(N), st.floats(-1, 1), st.floats(-1, 1))
def test_every_point_of_a_surfel_has_its_pixel(
    camera: Camera, share: np.ndarray, z: np.ndarray, turn: np.ndarray, u: float, v: float
) -> None:
    """M (u, v, 1) is the homogeneous pixel of mu + u s_u t_u + v s_v t_v; OpenCV says which that is."""
    means = back_projected(camera, pixels_in(camera, share), torch.from_numpy(z))
    tangents = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()[..., :2].copy()) * 0.1
    M = ray_transforms(means, tangents, camera)
    homogeneous = (M @ torch.tensor([u, v, 1.0], dtype=torch.float64)[:, None])[..., 0]
    points = means + tangents @ torch.tensor([u, v], dtype=torch.float64)
    expected = by_opencv(camera, points.numpy()) + 0.5
    assert np.abs((homogeneous[:, :2] / homogeneous[:, 2:]).numpy() - expected).max() < 1e-8


def by_opencv(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Where OpenCV sees them, whose first pixel is at (0, 0): for it our principal point lies half a pixel less."""
    K = camera.K.numpy().copy()
    K[:2, 2] -= 0.5
    rotation = Rotation.from_matrix(camera.viewmat[:3, :3].numpy()).as_rotvec()
    return cv2.projectPoints(points, rotation, camera.viewmat[:3, 3].numpy(), K, np.zeros(5))[0][:, 0]


@axiom
@given(cameras(), arrays(np.float64, 2, elements=st.floats(0.35, 0.65)), st.floats(2.0, 4.0), st.floats(1.2, 2.0))
def test_a_disc_is_drawn_in_the_array_where_opencv_puts_it(
    camera: Camera, share: np.ndarray, z: float, sigma: float
) -> None:
    """The weighted middle, in array indices, of what the renderer draws is cv2.projectPoints's pixel."""
    point = back_projected(camera, pixels_in(camera, share[None]), torch.full((1, 1), z).double())
    across = camera.viewmat[:2, :3].T * (
        sigma * z / torch.diagonal(camera.K)[:2]
    )  # sigma in pixels, round in the image
    layer = Layer(point, across[None], torch.full((1,), 0.9).double(), torch.ones(1, 1).double())
    (image,) = rasterize([layer], camera, "reference")
    alpha = image[..., 0].numpy()
    rows, columns = np.indices(alpha.shape)
    middle = np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
    assert np.abs(middle - by_opencv(camera, point.numpy())[0]).max() < 0.03


@axiom
@given(cameras(), distances, st.data())
def test_nerfstudios_rays_hit_our_pixels(camera: Camera, z: np.ndarray, data: st.DataObject) -> None:
    """A ray of nerfstudio through row i, column j meets what our camera draws at (j + 0.5, i + 0.5)."""
    rows = data.draw(arrays(np.int64, N, elements=st.integers(0, camera.height - 1)))
    columns = data.draw(arrays(np.int64, N, elements=st.integers(0, camera.width - 1)))
    theirs = in_nerfstudio(camera)
    ours = Camera.from_nerfstudio(theirs)
    grid = theirs.get_image_coords()[rows, columns]  # [N, 2] (y, x)
    rays = theirs.generate_rays(0, coords=grid)
    forward = ours.viewmat[2, :3]
    length = torch.from_numpy(z).float() / (rays.directions @ forward)[:, None]
    found, depth = seen_at(rays.origins + length * rays.directions, ours)
    expected = torch.from_numpy(np.stack([columns, rows], axis=1)).float() + 0.5
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(depth, torch.from_numpy(z[:, 0]).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.centre, rays.origins[0], atol=1e-5, rtol=0)


@axiom
@given(cameras(), dtypes)
def test_opengl_there_and_back(camera: Camera, dtype: torch.dtype) -> None:
    camera = to_dtype(camera, dtype)
    to_world = torch.linalg.inv(camera.viewmat) @ FLIP.to(dtype)
    fx, fy, cx, cy = (float(camera.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    back = Camera.from_opengl(to_world[:3], fx, fy, cx, cy, camera.width, camera.height)
    assert_close(back.viewmat, camera.viewmat, single=2e-6)
    torch.testing.assert_close(back.K, camera.K)
    assert_close(back.centre, to_world[:3, 3], single=5e-6)
    assert (back.width, back.height) == (camera.width, camera.height)


@axiom
@given(cameras(), places, distances, rigid_motions())
def test_a_world_moved_with_its_camera_looks_the_same(
    camera: Camera, share: np.ndarray, z: np.ndarray, G: np.ndarray
) -> None:
    points = back_projected(camera, pixels_in(camera, share), torch.from_numpy(z))
    (motion,) = tensors(torch.float64, G)
    moved = Camera(camera.viewmat @ torch.linalg.inv(motion), camera.K, camera.width, camera.height)
    tangents = small_tangents(camera, N, 0.05)
    before, after = project(points, tangents, camera), project(apply(motion, points), motion[:3, :3] @ tangents, moved)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=0)


@axiom
@given(cameras(), places, distances, st.integers(1, 4), st.integers(1, 4))
def test_a_finer_camera_sees_the_same_in_more_pixels(
    camera: Camera, share: np.ndarray, z: np.ndarray, factor: int, again: int
) -> None:
    pixels = pixels_in(camera, share)
    points = back_projected(camera, pixels, torch.from_numpy(z))
    finer = camera.finer(factor)
    torch.testing.assert_close(seen_at(points, finer)[0], factor * pixels, atol=1e-9, rtol=0)
    assert (finer.width, finer.height) == (factor * camera.width, factor * camera.height)
    twice, once = finer.finer(again), camera.finer(factor * again)
    torch.testing.assert_close(twice.K, once.K)
    assert torch.equal(twice.viewmat, camera.viewmat)
    assert (twice.width, twice.height) == (once.width, once.height)


@axiom
@given(cameras(), places, distances, st.data())
def test_a_crop_shifts_pixels_and_nothing_else(
    camera: Camera, share: np.ndarray, z: np.ndarray, data: st.DataObject
) -> None:
    """Whatever box the mask has: a point keeps its depth and its place in the content of every map."""
    top, left = data.draw(st.integers(0, camera.height - 2)), data.draw(st.integers(0, camera.width - 2))
    bottom, right = data.draw(st.integers(top + 1, camera.height)), data.draw(st.integers(left + 1, camera.width))
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    mask = torch.zeros(camera.height, camera.width, 1)
    mask[top:bottom, left:right] = 1
    batch = {"mask": mask, "row": rows, "column": columns}
    cropped, maps = crop_to_person(in_nerfstudio(camera), batch, margin=data.draw(st.sampled_from([0.0, 0.25])))
    assert maps["mask"].sum() == mask.sum()  # nothing of the person is cut off
    ours = Camera.from_nerfstudio(cropped)
    assert maps["row"].shape == (ours.height, ours.width)
    corner = torch.tensor([float(maps["column"][0, 0]), float(maps["row"][0, 0])])
    points = back_projected(camera, pixels_in(camera, share), torch.from_numpy(z)).float()
    (whole, depth), (part, same) = (seen_at(points, c) for c in (to_dtype(camera, torch.float32), ours))
    torch.testing.assert_close(part, whole - corner, atol=2e-3, rtol=0)
    torch.testing.assert_close(same, depth, atol=1e-5, rtol=0)


# --- normals ----------------------------------------------------------------------------------------------------------


def depth_of_plane(camera: Camera, normal: Tensor, distance: float) -> Tensor:
    """z-depth [H, W] of the plane n . x = -distance (n in OpenGL axes, towards the camera), by rays and numpy."""
    inverse = np.linalg.inv(camera.K.numpy())
    rows, columns = np.indices((camera.height, camera.width)) + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ inverse.T * [1, -1, -1]
    across = rays @ normal.numpy()
    return torch.from_numpy(distance / np.where(across < -1e-3, -across, -1.0))  # negative where it is not seen


@axiom
@given(cameras(), axes(), st.floats(1.0, 4.0), dtypes)
def test_normals_of_a_plane_are_the_planes(
    camera: Camera, axis: np.ndarray, distance: float, dtype: torch.dtype
) -> None:
    """Towards the camera, x right, y up; and the same from a plane at twice the depth."""
    normal = torch.from_numpy(axis[0] * np.sign(axis[0, 2]))
    depth = depth_of_plane(camera, normal, distance)
    assume(float(normal[2]) > 0.2 and bool((depth > 0).all()) and float(depth.max()) < 20 * distance)
    for factor in (1, 2):
        normals = depth_to_normal((factor * depth).to(dtype), to_dtype(camera, dtype))
        assert normals.dtype == dtype
        inside = normals[1:-1, 1:-1]
        assert_close(inside, normal.to(dtype).expand_as(inside), single=2e-3, double=1e-5)
        assert not normals[0].any()
        assert not normals[:, 0].any()


@axiom
@given(cameras(), rotation_vectors(N), rigid_motions(), dtypes)
def test_normals_of_surfels_turn_with_the_world_and_lie_across_it(
    camera: Camera, turn: np.ndarray, G: np.ndarray, dtype: torch.dtype
) -> None:
    """t_u x t_v in the camera's OpenGL axes, whatever the scales; unchanged if world and camera move together."""
    frames = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix().copy())
    tangents = (frames[..., :2] * torch.tensor([1e-3, 4e-4], dtype=torch.float64)).to(dtype)
    expected = frames[..., 2] @ camera.viewmat[:3, :3].T @ FLIP[:3, :3]
    normals = surfel_normals(tangents, to_dtype(camera, dtype))
    assert_close(normals, expected.to(dtype), single=1e-5)
    (motion,) = tensors(torch.float64, G)
    moved = Camera(camera.viewmat @ torch.linalg.inv(motion), camera.K, camera.width, camera.height)
    after = surfel_normals(motion[:3, :3].to(dtype) @ tangents, to_dtype(moved, dtype))
    assert_close(after, normals, single=1e-5)


@axiom
@given(cameras(), places, distances, rotation_vectors(N))
def test_what_faces_the_camera(camera: Camera, share: np.ndarray, z: np.ndarray, turn: np.ndarray) -> None:
    """The cosine of t_u x t_v and of the way from the camera to the surfel: -1 seen in front, +1 from behind."""
    means = back_projected(camera, pixels_in(camera, share), torch.from_numpy(z))
    frames = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix().copy())
    centre = torch.linalg.inv(camera.viewmat)[:3, 3]
    sight = (means - centre) / (means - centre).norm(dim=1, keepdim=True)
    found = facing_away(means, frames[..., :2] * 1e-3, camera)
    torch.testing.assert_close(found, (frames[..., 2] * sight).sum(1), atol=1e-9, rtol=0)
    front = -camera.viewmat[2, :3]
    towards = torch.linalg.svd(front[None]).Vh[1:]  # two axes across the view
    if torch.linalg.cross(towards[0], towards[1]) @ front < 0:
        towards = towards.flip(0)
    assert (facing_away(means, 1e-3 * towards.T.expand(N, 3, 2), camera) < 0).all()
