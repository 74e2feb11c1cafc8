"""The weights of Eq. 21."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """Weights by the paper's symbols; a term with weight 0 is neither computed nor rendered for."""

    lambda_ssim: float = 0.2
    """Share of SSIM in the photometric loss L_c (Eq. 13; the paper's)."""
    m: float = 0.1
    """Mask loss L_m (Eq. 14; [30]'s)."""
    skin: float = 10.0
    """Skinning loss L_skin until `skin_until` ([30]'s)."""
    skin_late: float = 0.1
    """Skinning loss L_skin after it ([30]'s)."""
    skin_until: float = 1 / 15
    """Fraction of the run at which the weight of L_skin falls ([30]: 1,000 of 15,000 steps)."""

    def at(self, progress: float) -> dict[str, float]:
        """Weight of every loss term at a fraction of the run, by the term's name."""
        return {"L_c": 1.0, "L_m": self.m, "L_skin": self.skin if progress < self.skin_until else self.skin_late}
