"""Surfels and a camera to images: one definition in plain torch, two executors (numba on CPUs, gsplat on CUDA)."""

from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.normals import depth_to_normal, facing_away, outward, surfel_normals
from fmgs_nerfstudio.rendering.rasterize import Executor, rasterize, rasterize_finer

__all__ = [
    "Camera",
    "Executor",
    "Layer",
    "depth_to_normal",
    "facing_away",
    "outward",
    "rasterize",
    "rasterize_finer",
    "surfel_normals",
]
