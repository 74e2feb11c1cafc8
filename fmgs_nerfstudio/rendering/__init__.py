"""Surfels and a camera to images: a plain torch definition and two executors, numba on CPUs and gsplat on CUDA."""

from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.rasterize import rasterize

__all__ = ["Camera", "Layer", "rasterize"]
