"""SMPL-family bodies: model files, poses, bones, canonical pose, template mesh."""

from fmgs_nerfstudio.body.model import BodyModel, find_body_model

__all__ = ["BodyModel", "find_body_model"]
