"""The embedded body has SMPL's schema, and smplx agrees with it."""

from __future__ import annotations

import make_demo_body
import numpy as np
import pytest
import smplx
import torch
import trimesh
from scipy.spatial.transform import Rotation
from smplx.utils import Struct
from smplx.vertex_ids import vertex_ids

from fmgs_nerfstudio.demo.skinned_surface import ASSETS, BODY


@pytest.fixture(scope="module")
def body() -> dict[str, np.ndarray]:
    with np.load(BODY) as file:
        return dict(file)


def test_schema(body: dict[str, np.ndarray]) -> None:
    shapes = {name: array.shape for name, array in body.items()}
    assert shapes == {
        "v_template": (6890, 3),
        "f": (13776, 3),
        "shapedirs": (6890, 3, 10),
        "posedirs": (6890, 3, 207),
        "J_regressor": (24, 6890),
        "weights": (6890, 24),
        "kintree_table": (2, 24),
    }
    assert body["f"].dtype == np.uint32
    assert not body["posedirs"].any()
    for name in ("weights", "J_regressor"):
        assert body[name].min() >= 0
        np.testing.assert_allclose(body[name].sum(1), 1, atol=1e-5)
    assert body["kintree_table"][0, 0] == -1
    assert np.all(body["kintree_table"][0, 1:] < np.arange(1, 24))


def test_the_script_that_makes_them_opens_without_anny(
    body: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BODY.parent == make_demo_body.ASSETS
    assert (body["kintree_table"][0].astype(np.int32) == make_demo_body.PARENTS).all()
    monkeypatch.setattr("sys.argv", ["make_demo_body.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        make_demo_body.main()
    assert "python scripts/make_demo_body.py" in capsys.readouterr().out


def test_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 2e6
    assert (ASSETS / "NOTICE.md").is_file()


@pytest.mark.parametrize("component", [None, 0, 1, 2])
def test_closed_surface_with_joints_inside(body: dict[str, np.ndarray], component: int | None) -> None:
    v = body["v_template"].copy()
    if component is not None:
        v += 2 * body["shapedirs"][..., component]
    mesh = trimesh.Trimesh(v, body["f"].astype(np.int64), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert 0.03 < mesh.volume < 0.15  # cubic metres: outward winding, a person's size
    assert mesh.contains(body["J_regressor"] @ v).all()


def test_size_and_facing(body: dict[str, np.ndarray]) -> None:
    v = body["v_template"]
    joints = body["J_regressor"] @ v
    assert 1.6 < np.ptp(v[:, 1]) < 1.95
    assert joints[1, 0] > 0 > joints[2, 0]  # left is +x
    assert v[np.argmax(v[:, 2] * (v[:, 1] > joints[15, 1])), 2] > joints[15, 2] + 0.08  # the nose points to +z
    np.testing.assert_allclose(joints[[16, 18, 20], 1], joints[16, 1], atol=0.02)  # T-pose: arms level


def test_smplx_agrees_with_plain_skinning(body: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    betas, pose, transl = rng.normal(size=10), rng.normal(0, 0.4, (24, 3)), rng.normal(size=3)
    model = smplx.SMPL("", data_struct=Struct(**body), num_betas=10)
    out = model(
        betas=torch.tensor(betas[None], dtype=torch.float32),
        global_orient=torch.tensor(pose[None, 0], dtype=torch.float32),
        body_pose=torch.tensor(pose[1:].reshape(1, 69), dtype=torch.float32),
        transl=torch.tensor(transl[None], dtype=torch.float32),
    )
    shaped = body["v_template"] + body["shapedirs"] @ betas
    joints = body["J_regressor"] @ shaped
    transforms = np.zeros((24, 4, 4))
    for j, parent in enumerate(body["kintree_table"][0]):
        local = np.eye(4)
        local[:3, :3] = Rotation.from_rotvec(pose[j]).as_matrix()
        local[:3, 3] = joints[j] - (joints[parent] if j else 0)
        transforms[j] = local if j == 0 else transforms[parent] @ local
    transforms[:, :3, 3] -= np.einsum("jab,jb->ja", transforms[:, :3, :3], joints)
    blended = np.tensordot(body["weights"], transforms, 1)
    posed = np.einsum("vab,vb->va", blended[:, :3, :3], shaped) + blended[:, :3, 3] + transl
    np.testing.assert_allclose(out.vertices[0].detach().numpy(), posed, atol=2e-6)


def test_extra_joints_of_smplx_lie_where_they_should(body: dict[str, np.ndarray]) -> None:
    v = body["v_template"]
    joints = body["J_regressor"] @ v
    ids = vertex_ids["smplh"]
    head = body["weights"][:, 15] > 0.5
    assert v[ids["nose"], 2] == v[head, 2].max()
    for left, right in (
        ("leye", "reye"),
        ("lear", "rear"),
        ("lindex", "rindex"),
        ("LBigToe", "RBigToe"),
        ("LHeel", "RHeel"),
    ):
        np.testing.assert_allclose(v[ids[left]], v[ids[right]] * [-1, 1, 1], atol=0.02)
        assert v[ids[left], 0] > 0
    assert abs(v[ids["leye"], 1] - v[ids["nose"], 1]) < 0.06
    fingers = [v[ids[f"l{name}"]] for name in ("thumb", "index", "middle", "ring", "pinky")]
    assert np.all(np.diff([tip[2] for tip in fingers]) < 0)  # from the front to the back
    assert all(tip[0] > joints[22, 0] for tip in fingers[1:])
    for side in ("L", "R"):
        assert v[ids[f"{side}BigToe"], 2] > v[ids[f"{side}Heel"], 2] + 0.15
        assert abs(v[ids[f"{side}BigToe"], 0]) < abs(v[ids[f"{side}SmallToe"], 0])
        assert v[ids[f"{side}Heel"], 1] < joints[7, 1]
