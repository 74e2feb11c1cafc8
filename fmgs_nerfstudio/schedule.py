"""What starts when: fractions of the run, so that a run of any length has every phase."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_TUNED_TO = 0.015
"""Radians: a joint's error in the demo's fits, to which the starts of poses were tuned."""

_WORTH_OF_CLOTHES = 0.035
"""Metres: so much nearer comes an exact clip of the demo, three metres away, before clothes are learned."""


@dataclass(frozen=True)
class Schedule:
    """Phases of a run."""

    steps: int | None = None
    """Length of the run that the fractions refer to. Default: max-num-iterations when the run was first started."""
    surfels_start: float = 0.0
    """Fraction of the run after which surfels' own scales and opacities are learned (3DGS-Avatar: 1/15)."""
    residual_start: float = 0.02
    """Fraction of the run after which the geometry residual is applied (3DGS-Avatar: 0.2)."""
    pose_start: float = 0.1
    """Fraction of the run after which poses are refined (3DGS-Avatar: 0.33), first each beside the mean of all."""
    pose_common_start: float = 0.4
    """Fraction after which what all poses have in common is refined too. Earlier, it makes up for missing clothes."""
    skinning_fit_steps: int = 200
    """Steps that fit the skinning field to the body model's weights before training."""

    def pose_start_for(self, rotation: float) -> float:
        """The earlier, the further joints' rotations may be off (standard deviation, radians; 0: not known): what
        clothes are missing then weighs less, and what fields would learn from wrong poses more."""
        return min(self.pose_start, self.pose_common_start * _TUNED_TO / rotation) if rotation > 0 else self.pose_start

    def clip_start_for(self, distance: float) -> float:
        """When lean and distance of the whole clip are refined: the earlier, the further the distance may be off
        (standard deviation, metres), but not before the clothes are there where that is not much more than they are
        worth: a naked avatar comes nearer to cover their outline. Of a clip whose errors are not stated (0), all that
        its poses have in common."""
        return self.pose_common_start * (min(_WORTH_OF_CLOTHES / distance, 1.0) if distance > 0 else 1.0)


@dataclass
class DecayConfig(SchedulerConfig):
    """Exponential decay of the learning rate over the run."""

    _target: type = field(default_factory=lambda: Decay)
    final: float = 0.1
    """Final learning rate, as a fraction of the initial one."""
    steps: int | None = None
    """Steps over which the learning rate decays. Default: max-num-iterations."""


class Decay(Scheduler):
    """nerfstudio's own decay returns numpy scalars, which torch.load refuses with weights_only, its default."""

    config: DecayConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        if self.config.steps is None:
            raise ValueError("a decay without steps: FMGSTrainerConfig sets them from max_num_iterations")
        return LambdaLR(optimizer, lr_lambda=_ExponentialDecay(self.config.final, self.config.steps))


class _ExponentialDecay:
    """An object, not a function: torch keeps its fields in the checkpoint, and a resumed run decays as before."""

    def __init__(self, final: float, steps: int) -> None:
        self.final, self.steps = final, steps

    def __call__(self, step: int) -> float:
        return math.exp(math.log(self.final) * min(step / self.steps, 1.0))
