"""The loader and what is computed from a body, against smplx."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import smplx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smplx.utils import Struct

from fmgs_nerfstudio import demo
from fmgs_nerfstudio.body import BodyModel, find_body_model
from fmgs_nerfstudio.body.canonical import CanonicalBody, star_pose

ASSET = Path(demo.__file__).parent / "assets" / "body_demo.npz"


def _with_posedirs(path: Path) -> dict[str, np.ndarray]:
    """The demo body with pose blend shapes that are not zero, so that their code path runs."""
    with np.load(ASSET) as file:
        data = dict(file)
    data["posedirs"] = np.random.default_rng(0).normal(0, 1e-3, data["posedirs"].shape).astype(np.float32)
    np.savez(path, **data)  # pyright: ignore[reportArgumentType]
    return data


@pytest.mark.parametrize("seed", range(3))
def test_vertices_agree_with_smplx(tmp_path: Path, seed: int) -> None:
    data = _with_posedirs(tmp_path / "body.npz")
    ours = BodyModel.load(tmp_path / "body.npz")
    theirs = smplx.SMPL("", data_struct=Struct(**data), num_betas=10)
    generator = torch.Generator().manual_seed(seed)
    betas, pose, transl = (torch.randn(n, generator=generator) * s for n, s in ((10, 1.0), (72, 0.4), (3, 1.0)))
    expected = theirs(betas=betas[None], global_orient=pose[None, :3], body_pose=pose[None, 3:], transl=transl[None])
    assert (ours.vertices(betas, pose, transl) - expected.vertices[0]).abs().max() < 1e-5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_bones_move_vertices_as_lbs_does(seed: int) -> None:
    """Without pose blend shapes, blending `bones` by the weights is the whole of LBS."""
    body = BodyModel.load(ASSET)
    generator = torch.Generator().manual_seed(seed)
    betas, pose, transl = (torch.randn(n, generator=generator) * s for n, s in ((10, 1.0), (72, 0.5), (3, 1.0)))
    shaped, joints = body.shape(betas)
    T = (body.weights @ body.bones(joints, pose, transl).flatten(1)).view(-1, 4, 4)
    moved = (T[:, :3, :3] @ shaped[..., None])[..., 0] + T[:, :3, 3]
    assert (moved - body.vertices(betas, pose, transl)).abs().max() < 1e-5


def test_canonical_bones_are_the_identity_in_the_star_pose(body: BodyModel) -> None:
    canonical = CanonicalBody(body, torch.zeros(10))
    identity = torch.eye(4).expand(24, 4, 4)
    assert torch.allclose(canonical(star_pose(), torch.zeros(3))[1], identity, atol=1e-5)
    assert canonical.joints[7, 0] > 0 > canonical.joints[8, 0]  # the left leg is at +x
    feet = canonical.vertices[canonical.vertices[:, 1] < canonical.vertices[:, 1].min() + 0.05]
    assert feet[:, 0].max() - feet[:, 0].min() > 1.0  # metres between the feet


def test_canonical_bones_undo_and_redo_the_star_pose(body: BodyModel) -> None:
    """A point that belongs to one bone goes from the star pose to where SMPL puts it."""
    canonical = CanonicalBody(body, torch.zeros(10))
    pose, transl = torch.randn(72) * 0.3, torch.randn(3)
    head = body.weights[:, 15] > 0.999
    T = canonical(pose, transl)[1][15]
    moved = canonical.vertices[head] @ T[:3, :3].T + T[:3, 3]
    assert (moved - body.vertices(torch.zeros(10), pose, transl)[head]).abs().max() < 2e-3


def test_official_pickles_open_without_chumpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by a stand-in of chumpy's class, and read when no chumpy is there."""
    with np.load(ASSET) as file:
        data = dict(file)
    chumpy = types.ModuleType("chumpy.ch")
    exec("class Ch:\n    def __init__(self, x): self.x = x", chumpy.__dict__)
    official = {key: data[key] for key in ("f", "v_template", "weights", "kintree_table", "posedirs")}
    official["shapedirs"] = chumpy.Ch(data["shapedirs"].astype(np.float64))
    official["J_regressor"] = scipy.sparse.csc_matrix(data["J_regressor"])
    with monkeypatch.context() as patch:
        for name in ("chumpy", "chumpy.ch"):
            patch.setitem(sys.modules, name, chumpy)
        (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(official, protocol=2))
    ours, asset = BodyModel.load(tmp_path / "SMPL_NEUTRAL.pkl"), BodyModel.load(ASSET)
    for name in ("v_template", "shapedirs", "J_regressor", "weights", "faces"):
        assert torch.equal(getattr(ours, name), getattr(asset, name)), name
    assert ours.parents == asset.parents


class _Payload:
    def __reduce__(self):
        return os.system, ("touch payload_ran",)


def test_a_pickle_with_a_payload_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps({"f": _Payload()}))
    with pytest.raises(ValueError, match=r"SMPL_NEUTRAL\.pkl.*system"):
        BodyModel.load(tmp_path / "SMPL_NEUTRAL.pkl")
    assert not (tmp_path / "payload_ran").exists()


def test_broken_files_are_named(tmp_path: Path) -> None:
    truncated = tmp_path / "SMPL_NEUTRAL.npz"
    truncated.write_bytes(ASSET.read_bytes()[:5000])
    with pytest.raises(ValueError, match="SMPL_NEUTRAL"):
        BodyModel.load(truncated)
    np.savez(tmp_path / "other.npz", v_template=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="lacks f, shapedirs"):
        BodyModel.load(tmp_path / "other.npz")


def test_a_missing_model_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMPL_MODEL_DIR", raising=False)
    with pytest.raises(FileNotFoundError) as error:
        find_body_model("neutral", [None, tmp_path])
    for part in (str(tmp_path), "SMPL_NEUTRAL.pkl", "smpl.is.tue.mpg.de", "$SMPL_MODEL_DIR is not set"):
        assert part in str(error.value)
    (tmp_path / "SMPL_NEUTRAL.npz").write_bytes(ASSET.read_bytes())
    monkeypatch.setenv("SMPL_MODEL_DIR", str(tmp_path))
    assert find_body_model("neutral", [None]) == tmp_path / "SMPL_NEUTRAL.npz"


@pytest.mark.parametrize("gender", ["neutral", "male", "female"])
@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize("stem", ["basicmodel", "basicModel", "BASICMODEL"])
def test_names_that_the_files_come_with(tmp_path: Path, gender: str, version: str, stem: str) -> None:
    short = {"neutral": "neutral", "male": "m", "female": "f"}[gender]
    for other in ("neutral", "m", "f"):
        (tmp_path / f"{stem}_{other}_lbs_10_207_0_v{version}.pkl").touch()
    assert find_body_model(gender, [tmp_path]).name == f"{stem}_{short}_lbs_10_207_0_v{version}.pkl"
    (tmp_path / f"SMPL_{gender.upper()}.pkl").touch()
    assert find_body_model(gender, [tmp_path]).name == f"SMPL_{gender.upper()}.pkl"


def test_300_betas(tmp_path: Path) -> None:
    """Files of v1.1.0 have 300 shape directions; ten betas use the first ten."""
    with np.load(ASSET) as file:
        data = dict(file)
    extra = np.random.default_rng(0).normal(size=(*data["shapedirs"].shape[:2], 290)).astype(np.float32)
    (tmp_path / "basicmodel_m_lbs_10_207_0_v1.1.0.pkl").write_bytes(
        pickle.dumps({**data, "shapedirs": np.concatenate([data["shapedirs"][..., :10], extra], axis=-1)})
    )
    body, asset = BodyModel.load(find_body_model("male", [tmp_path])), BodyModel.load(ASSET)
    values = (torch.randn(10), torch.randn(72) * 0.2, torch.randn(3))
    assert torch.allclose(body.vertices(*values), asset.vertices(*values))
    assert not torch.allclose(body.shape(torch.ones(300))[0], asset.shape(torch.ones(10))[0])
