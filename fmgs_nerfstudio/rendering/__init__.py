"""Surfels and a camera to images: a plain torch definition and two executors, numba on CPUs and gsplat on CUDA."""

from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.normals import depth_to_normal, surfel_normals
from fmgs_nerfstudio.rendering.rasterize import rasterize

__all__ = ["Camera", "Layer", "depth_to_normal", "rasterize", "surfel_normals"]
