"""The mesh of a frame, its distance to a true surface, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from support.small_avatar import small_avatar
from trimesh.visual import ColorVisuals

from fmgs_nerfstudio.cli import export
from fmgs_nerfstudio.evaluation.runs import Run
from fmgs_nerfstudio.export.accuracy import Distances, distances_to, geometry_error
from fmgs_nerfstudio.export.surface import displaced_surface, learned_mesh, write_mesh
from fmgs_nerfstudio.frozen import FrozenAvatar


@pytest.fixture(scope="module")
def frozen() -> FrozenAvatar:
    return FrozenAvatar(small_avatar())


def test_a_mesh_comes_back(tmp_path: Path, frozen: FrozenAvatar) -> None:
    mesh = learned_mesh(small_avatar(), frozen.at_rest())
    for name in ("a.obj", "a.ply"):
        write_mesh(mesh, mesh.vertices, tmp_path / name)
        read = trimesh.load_mesh(tmp_path / name, process=False)
        np.testing.assert_allclose(read.vertices, mesh.vertices.numpy(), atol=1e-6)
        np.testing.assert_array_equal(read.faces, mesh.faces.numpy())
        assert isinstance(read.visual, ColorVisuals)
        colours = read.visual.vertex_colors[:, :3] / 255
        np.testing.assert_allclose(colours, mesh.colours.numpy(), atol=0.6 / 255)
    assert mesh.parts is not None
    raw = read.metadata["_ply_raw"]["vertex"]["data"]["part"]
    np.testing.assert_array_equal(np.ravel(raw), mesh.parts.numpy())


def test_distances_of_concentric_spheres() -> None:
    """A point of the outer sphere is 10 mm from the inner one, and 0 from a triangle that it lies in."""
    inner, outer = (trimesh.creation.icosphere(subdivisions=3, radius=r) for r in (0.1, 0.11))
    found = Distances.of(outer, inner)
    assert found.mean == pytest.approx(10, abs=0.1)
    assert found.p95 == pytest.approx(10, abs=0.3)
    points = np.asarray(trimesh.sample.sample_surface(inner, 20, seed=1)[0])
    assert distances_to(points, inner).max() < 1e-5
    away = points * 1.03
    nearest = [trimesh.triangles.closest_point(inner.triangles, np.tile(p, (len(inner.faces), 1))) for p in away]
    exact = [np.linalg.norm(on - point, axis=1).min() for on, point in zip(nearest, away, strict=True)]
    np.testing.assert_allclose(distances_to(away, inner), exact, atol=1e-6)


def test_geometry_error_of_a_known_surface(tmp_path: Path, frozen: FrozenAvatar) -> None:
    """Truth is our own posed mesh, carried 7 mm along one axis: about that far, whichever way it is measured."""
    model = small_avatar()
    capture = replace(model.kwargs["metadata"]["capture"], root=tmp_path)
    assert geometry_error(frozen, capture) == {}
    folder = tmp_path / "ground_truth" / "surface"
    folder.mkdir(parents=True)
    frame = capture.splits["train"][1]
    pose = model.poses(frame.pose_id)
    mesh = learned_mesh(model, frozen.pose(*pose))
    vertices = mesh.posed(model.canonical(*pose)[1]).numpy()
    np.savez(folder / "faces.npz", faces=mesh.faces.numpy())
    for shift, lowest, highest in ((0.0, 0.0, 0.01), (0.007, 2.0, 7.0)):
        np.savez(folder / f"{frame.stem}.npz", vertices=vertices + np.array([shift, 0, 0]))
        errors = geometry_error(frozen, capture)["train"]
        assert all(lowest <= value <= highest for value in errors.values()), errors


def test_vertices_move_with_the_faces_around_them(frozen: FrozenAvatar) -> None:
    model, avatar = small_avatar(), frozen.at_rest()
    vertices, faces = displaced_surface(model, avatar)
    count = len(model.template.vertices)
    moved = (vertices[:count] - model.template.vertices).norm(dim=-1)
    surfels = (avatar.canonical.means - model.surfels.means).norm(dim=-1)
    assert 0.5 * surfels.mean() < moved.mean() <= surfels.max()
    # Every surfel is a vertex, and its face's three parts are as closed and as oriented as the template.
    np.testing.assert_array_equal(vertices[count:], avatar.canonical.means)
    before = trimesh.Trimesh(model.template.vertices.numpy(), model.template.faces.numpy(), process=False)
    after = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert len(after.faces) == 3 * len(before.faces)
    assert after.is_winding_consistent == before.is_winding_consistent
    assert after.euler_number == before.euler_number
    assert after.volume == pytest.approx(before.volume, rel=0.1)


def test_the_command_writes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "open_run", lambda run, data: Run(None, small_avatar(), tmp_path))  # pyright: ignore[reportArgumentType]
    export.main([str(tmp_path), "--frame", "1", "--formats", "splats", "glb", "obj", "ply", "--sh-degree", "0"])
    written = {path.name for path in (tmp_path / "export").iterdir()}
    assert written == {"avatar_000001_splats.ply", "avatar.glb", "avatar_000001.obj", "avatar_000001.ply"}
    data = (tmp_path / "export" / "avatar.glb").read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert [animation["name"] for animation in document["animations"]] == ["CoreView_1"]


def test_a_frame_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "open_run", lambda run, data: Run(None, small_avatar(), tmp_path))  # pyright: ignore[reportArgumentType]
    with pytest.raises(SystemExit):
        export.main([str(tmp_path), "--frame", "99"])
    assert "0 to 2" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
