"""The known person as trackers with other bodies see them: keypoints of SAM 3D Body, joints of GEM-X, GEM-SMPL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.known_person import HEIGHT, WIDTH, Person, View, body_model, mask, middle, picture, smpl, view, write
from support.layout_capture import Seen, gvhmr

# Indices of SMPL's joints by what the other bodies call them.
_MHR = {9: 1, 10: 2, 11: 4, 12: 5, 13: 7, 14: 8, 5: 16, 6: 17, 7: 18, 8: 19, 62: 20, 41: 21, 69: 12, 53: 22, 32: 23}
_SOMA = {0: 0, 4: 12, 6: 15, 11: 13, 12: 16, 13: 18, 14: 20, 24: 22, 39: 14, 40: 17, 41: 19, 42: 21, 52: 23, 67: 1,
         68: 4, 69: 7, 70: 10, 72: 2, 73: 5, 74: 8, 75: 11}  # fmt: skip
_TIPS = 0.65  # where the foot bends, from the ankle to the tips of the toes


def joints_before(person: Person, seen: View) -> tuple[np.ndarray, np.ndarray]:
    """Joints [n, 24, 3] in the camera's axes, and the head's direction to its left [n, 3], by smplx."""
    model: Any = smpl()
    found = []
    for i in range(person.n):
        pose, transl = (torch.tensor(value)[None].float() for value in person.before(seen, i))
        betas = torch.tensor(person.betas[None]).float()
        posed = model(betas=betas, global_orient=pose[:, :3], body_pose=pose[:, 3:], transl=transl)
        # two points on the head, whose vertices follow it alone: the farthest to the left and to the right
        found.append((posed.joints[0, :24].detach().numpy(), posed.vertices[0].detach().numpy()))
    template = model.v_template.numpy()
    weights = model.lbs_weights.numpy()[:, 15] > 0.999
    x = np.where(weights, template[:, 0], 0)
    left, right = int(x.argmax()), int(x.argmin())
    return np.stack([j for j, _ in found]), np.stack([v[left] - v[right] for _, v in found])


def sam_3d_body(root: Path, person: Person) -> Seen:
    """Someone smaller beside the person in each image, and another focal length in the second."""
    seen = view(K=middle(120.0))
    joints, across = joints_before(person, seen)
    for i in range(person.n):
        write(root / "images" / f"{i:06d}.png", picture(i))
        write(root / "masks" / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)
        points = np.zeros((70, 3))
        for k, joint in _MHR.items():
            points[k] = joints[i, joint]
        for (big, small), ankle, foot in (((15, 16), 7, 10), ((18, 19), 8, 11)):
            points[[big, small]] = joints[i, ankle] + (joints[i, foot] - joints[i, ankle]) / _TIPS
        points[3], points[4] = joints[i, 15] + across[i] / 2, joints[i, 15] - across[i] / 2
        focal = 150.0 if i == 1 else 120.0
        shift = np.array([0.1, 0.2, 3.0])
        points -= shift
        if i == 1:  # the same picture by a longer lens is of a person farther away
            shift[2] += points[[9, 10], 2].mean() * 0.25 + shift[2] * 0.25
        content = {
            "pred_keypoints_3d": np.stack([points + 5, points]), "pred_cam_t": np.stack([shift, shift]),
            "focal_length": np.array([focal, focal]), "bbox": np.array([[0, 0, 5, 9], [0, 0, 40, 70]]),
        }  # fmt: skip
        (root / "sam_3d_body").mkdir(exist_ok=True)
        np.savez(root / "sam_3d_body" / f"{i:06d}.npz", **{k: v.astype(np.float32) for k, v in content.items()})
    body_model(root)
    return lambda camera, i: seen


def gem_joints(root: Path, person: Person) -> Seen:
    """SOMA's joints of GEM-X."""
    seen = view(K=middle(120.0))
    joints, across = joints_before(person, seen)
    soma = np.zeros((person.n, 77, 3))
    for k, joint in _SOMA.items():
        soma[:, k] = joints[:, joint]
    soma[:, 9], soma[:, 10] = joints[:, 15] + across / 5, joints[:, 15] - across / 5
    for i in range(person.n):
        write(root / "images" / f"{i:06d}.png", picture(i))
        write(root / "masks" / f"{i:06d}.png", mask(i).astype(np.uint8) * 255)
    K = np.array([[120.0, 0, WIDTH / 2], [0, 120.0, HEIGHT / 2], [0, 0, 1]])
    np.savez(root / "gem_joints.npz", joints=soma.astype(np.float32), K=K)
    body_model(root)
    return lambda camera, i: seen


def gem_smpl(root: Path, person: Person) -> Seen:
    """As GVHMR writes it, under other names."""
    seen = gvhmr(root, person)
    content = torch.load(root / "hmr4d_results.pt")
    torch.save(
        {"body_params_incam": content["smpl_params_incam"], "K_fullimg": content["K_fullimg"]}, root / "smpl_params.pt"
    )
    (root / "hmr4d_results.pt").unlink()
    return seen
