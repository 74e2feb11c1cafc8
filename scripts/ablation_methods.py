"""Variants of the method that only an ablation wants: nerfstudio methods of their own, made from outside.

`scripts/ablation` names them to nerfstudio through $NERFSTUDIO_METHOD_CONFIGS.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Any

from nerfstudio.plugins.types import MethodSpecification

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.method import fmgs_avatar, fmgs_avatar_paper
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig


@dataclass
class OtherLatentConfig(FMGSModelConfig):
    """FMGS-Avatar whose pose latent Z_p encodes another frame."""

    _target: type = field(default_factory=lambda: OtherLatentModel)
    latent_shift: int = 37
    """Frames between a pose and the one that its latent encodes."""


class OtherLatentModel(FMGSModel):
    """What a surfel learns of the pose is what any frame would tell it: what is Z_p worth?"""

    config: OtherLatentConfig

    def pose_avatar(self, pose_id: int) -> Avatar:
        other = (pose_id + self.config.latent_shift) % len(self.poses.pose)
        bones, _ = self.canonical(*self.pose_now(other))
        encode_other = self.pose_encoder.register_forward_pre_hook(lambda _, inputs: (bones, *inputs[1:]))
        try:
            return super().pose_avatar(pose_id)
        finally:
            encode_other.remove()


def _with_other_latent(method: MethodSpecification) -> MethodSpecification:
    config: Any = copy.deepcopy(method.config)
    model = config.pipeline.model
    own = {field.name: getattr(model, field.name) for field in fields(model) if field.name != "_target"}
    config.method_name, config.pipeline.model = f"{config.method_name}-other-latent", OtherLatentConfig(**own)
    return MethodSpecification(config=config, description="Ablation: the pose latent of another frame")


other_latent = _with_other_latent(fmgs_avatar)
other_latent_paper = _with_other_latent(fmgs_avatar_paper)
