"""The avatar in one pose, as the fields leave it and rendering takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.fields.volumes import FeatureVolume
from fmgs_nerfstudio.kernels.carrying import Carried
from fmgs_nerfstudio.parameters import Parameters, TrainedPart
from fmgs_nerfstudio.routes import Posing
from fmgs_nerfstudio.surfels import Surfels


class Distilled(NamedTuple):
    """A property of the surfels learned from a prior: features f of its volume, and what its field makes of them."""

    features: Float[Tensor, "N D"]
    values: Float[Tensor, "N C"]


class Skinned(NamedTuple):
    """Skinning weights at points of the template's surface."""

    predicted: Float[Tensor, "P 24"]
    given: Float[Tensor, "P 24"]
    """SMPL's."""


class DistilledFields(TrainedPart):
    """Per modality a feature volume and the decoder of its features, as V_s and F_theta_s (Eq. 8)."""

    def __init__(self, fields: dict[str, tuple[FeatureVolume, nn.Module]]) -> None:
        super().__init__()
        self.volumes = nn.ModuleDict({name: volume for name, (volume, _) in fields.items()})
        self.decoders = nn.ModuleDict({name: decoder for name, (_, decoder) in fields.items()})

    def trained(self) -> list[Parameters]:
        volumes = [Parameters.of(f"V_{name}", "volumes", volume) for name, volume in self.volumes.items()]
        return volumes + [Parameters.of(name, "distilled", decoder) for name, decoder in self.decoders.items()]

    def forward(self) -> dict[str, Distilled]:
        """By the modality's name."""
        features = {name: volume() for name, volume in self.volumes.items()}
        return {name: Distilled(f, self.decoders[name](f)) for name, f in features.items()}


@dataclass(frozen=True, eq=False)
class Avatar:
    """Everything that does not depend on the camera."""

    canonical: Surfels
    T: Float[Tensor, "N 3 4"]
    opacities: Float[Tensor, "N"]
    f_c: Float[Tensor, "N D"]
    z_g: Float[Tensor, "N Z"]
    Z_p: Float[Tensor, "L"]
    distilled: dict[str, Distilled]
    """By the modality's name."""
    skinned: Skinned | None = None
    """What a training step holds to the body's (L_skin)."""
    carried: Carried | None = None
    """The surfels in the observed world where they are known; none: made when somebody looks."""

    def with_opacities(self, opacities: Float[Tensor, "N"]) -> Avatar:
        return replace(self, opacities=opacities)

    @cached_property
    def posed(self) -> Posing:
        """The surfels in the observed world, posed once for the renderer, the shading and the losses."""
        return Posing(self.canonical, self.opacities, self.T, self.carried)

    def tensors(self) -> list[Tensor]:
        """All that it consists of, the posed surfels among them, for `of_tensors`."""
        distilled = [tensor for field in self.distilled.values() for tensor in field]
        predicted = [self.skinned.predicted] if self.skinned else []
        own = [self.T, self.opacities, self.f_c, self.z_g, self.Z_p]
        return [*self.canonical, *self.posed.carried, *own, *predicted, *distilled]

    @staticmethod
    def of_tensors(tensors: Sequence[Tensor], names: Sequence[str], given: Float[Tensor, "P 24"] | None) -> Avatar:
        """The inverse of `tensors`, with these distilled fields and given skinning weights."""
        rest = iter(tensors)

        def take(count: int) -> list[Tensor]:
            return [next(rest) for _ in range(count)]

        canonical, carried = Surfels(*take(3)), Carried(*take(4))
        T, opacities, f_c, z_g, Z_p = take(5)
        skinned = None if given is None else Skinned(next(rest), given)
        distilled = {name: Distilled(next(rest), next(rest)) for name in names}
        return Avatar(canonical, T, opacities, f_c, z_g, Z_p, distilled, skinned, carried)
