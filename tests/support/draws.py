"""What the axioms are drawn over: dtypes, vectors, rotations, rigid motions and cameras."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera

axiom = settings(max_examples=30, deadline=None, derandomize=True)
dtypes = st.sampled_from([torch.float32, torch.float64])
ANGLES = (0.0, 1e-12, 1e-7, 1e-4, 9.99e-3, 1.001e-2, 0.3, 1.0, 2.0, np.pi - 1e-3, np.pi - 1e-7, np.pi)
"""Zero, both sides of where the series of `rotation_exp` ends (1e-2), and up to half a turn."""


def assert_close(found: Tensor, expected: Tensor, single: float = 1e-5, double: float = 1e-12) -> None:
    """Equal in shape and dtype, and in value to an absolute tolerance of that dtype."""
    tolerance = single if found.dtype == torch.float32 else double
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def vectors(n: int, size: int = 3, low: float = -2.0, high: float = 2.0) -> st.SearchStrategy[np.ndarray]:
    """Arrays [n, size] of float64."""
    return arrays(np.float64, (n, size), elements=st.floats(low, high, allow_subnormal=False))


def axes(n: int = 1) -> st.SearchStrategy[np.ndarray]:
    """Unit vectors [n, 3]."""
    long = vectors(n).filter(lambda v: bool((np.linalg.norm(v, axis=1) > 0.1).all()))
    return long.map(lambda v: v / np.linalg.norm(v, axis=1, keepdims=True))


def rotation_vectors(n: int = 1) -> st.SearchStrategy[np.ndarray]:
    """[n, 3], of every angle up to half a turn; the special ones often."""
    angles = arrays(np.float64, (n, 1), elements=st.sampled_from(ANGLES) | st.floats(0, np.pi))
    return st.tuples(axes(n), angles).map(lambda drawn: drawn[0] * drawn[1])


@st.composite
def rigid_motions(draw: st.DrawFn) -> np.ndarray:
    """[4, 4] of metres."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(draw(rotation_vectors())[0]).as_matrix()
    motion[:3, 3] = draw(vectors(1))[0]
    return motion


@st.composite
def simplices(draw: st.DrawFn, n: int, size: int = 24) -> np.ndarray:
    """Weights [n, size] that sum to one."""
    weights = draw(arrays(np.float64, (n, size), elements=st.floats(0, 1, allow_subnormal=False))) + 1e-3
    return weights / weights.sum(1, keepdims=True)


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    """A pinhole camera anywhere, float64; its principal point is inside the image and seldom its middle."""
    world_to_camera = draw(rigid_motions())
    width, height = draw(st.integers(24, 64)), draw(st.integers(20, 48))
    fx, fy = draw(st.floats(40, 120)), draw(st.floats(40, 120))
    cx, cy = draw(st.floats(0.3, 0.7)) * width, draw(st.floats(0.3, 0.7)) * height
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return Camera(torch.from_numpy(world_to_camera), K, width, height)


def tensors(dtype: torch.dtype, *drawn: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.array(value)).to(dtype) for value in drawn]


def apply(motion: Tensor, points: Tensor) -> Tensor:
    """Points [N, 3] moved by a matrix [4, 4]."""
    return points @ motion[:3, :3].T + motion[:3, 3]
