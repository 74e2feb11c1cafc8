"""Light first: albedo and light of a capture in closed form, before anything learns a colour.

A colour is albedo times shade. For a given light the albedo of a surfel is a mean over the frames that saw it, so that
nine numbers are left (variable projection). What remains open is the half of the directions that no surfel was seen to
face: there, polynomials that fit the seen half alike differ by everything. Light is a sum of lamps, none negative; and
of all that explain the colours, the one with the least light that has a direction is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.sparse import coo_array

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.fields.light import GAMMA, irradiance_basis, irradiance_of

_LAMPS = 92
"""Directions that lamps may have, spread evenly: 20 degrees apart."""
_RINGS = 9
"""Heights of what is symmetric about the vertical."""
_PRICE = 1e-3
"""Of the square of all lamps' light, relative to the squares of all colours."""
_NOISE = 0.05
"""Colours that are off by more than this count less: borders, and clothes that have moved over the skin."""
_WORTH = 0.95
"""Lamps must leave less than this share of the squared errors that light symmetric about the vertical leaves."""
_WORTH_EXPOSURES = 0.9
"""Exposures must leave less than this share of the squared errors that a steady one leaves."""
_ROUNDS = 2
"""Of light and exposures in turn."""
_BRIGHTEST = 0.9
"""Albedos stay below it (but for a few in a thousand), in reach of a sigmoid."""
_FLOOR = 0.05


class Sightings(NamedTuple):
    """Colours at which surfels were seen."""

    picture: Int[Array, "M"]
    """A number of the picture that shows it."""
    surfel: Int[Array, "M"]
    normal: Float[Array, "M 3"]
    """Unit vectors in the world."""
    colour: Float[Array, "M 3"]
    """As in images, 0..1."""
    weight: Float[Array, "M"]

    def exposed_by(self, factors: Float[Array, "K 3"]) -> Sightings:
        """With the colours of each picture multiplied."""
        return self._replace(colour=self.colour * factors[self.picture])


@dataclass(frozen=True)
class LightFit:
    """A light, and how well it explains what was seen."""

    irradiance: Float[Array, "9"]
    """Coefficients as of `Light`, the same for R, G and B."""
    toward: Float[Array, "3"] | None
    """Where the lamps are, on the whole: a unit vector; none where light is symmetric about the vertical."""
    lamps: float
    """Their share of the light."""
    explained: float
    """Share of the squared differences from colours that never change which the light takes away."""
    rest: float
    """Root mean square of what it leaves, as a colour: for view and pose to explain."""
    exposures: Mapping[int, Float[Array, "3"]] = field(default_factory=dict[int, Array])
    """Factors of the colours by picture, 1 in the (geometric) mean; none where the camera is steady."""


def fit_light(seen: Sightings, up: Float[Array, "3"], exposures: bool = True) -> LightFit:
    """The light of what was seen, and the `exposures` of its pictures; `up` is the unit vector upwards.

    Light that is symmetric about the vertical, as a sky or a studio, where lamps explain hardly more; steady exposures
    where others explain hardly more.

    Raises:
        ValueError: no surfel was seen twice.
    """
    numbers, seen = _seen_again(seen)
    fit = _light_of(seen, up)
    if not exposures:
        return fit
    left, factors = min(
        (_exposed(seen, light) for light in (fit.irradiance, np.eye(9)[0])), key=lambda found: found[0]
    )  # the light of a steady camera may have taken what exposures are
    if left > _WORTH_EXPOSURES * fit.rest**2:
        return fit
    for _ in range(_ROUNDS):
        fit = _light_of(seen.exposed_by(1 / factors), up)
        _, factors = _exposed(seen, fit.irradiance, factors)
    return replace(fit, exposures=dict(zip(numbers.tolist(), factors, strict=True)))


def _seen_again(seen: Sightings) -> tuple[Int[Array, "K"], Sightings]:
    """Without what was seen once, in float64; surfels and pictures by new numbers, and the old ones of pictures."""
    _, surfel, counts = np.unique(seen.surfel, return_inverse=True, return_counts=True)
    again = counts[surfel] > 1
    if not again.any():
        raise ValueError("no surfel was seen in two frames: nothing tells light from albedo")
    _, surfel = np.unique(surfel[again], return_inverse=True)
    numbers, picture = np.unique(seen.picture[again], return_inverse=True)
    return numbers, Sightings(picture, surfel, *(values[again].astype(float) for values in seen[2:]))


def _light_of(seen: Sightings, up: Float[Array, "3"]) -> LightFit:
    problem = _Problem(seen, _basis(seen.normal))
    directions = spread(_LAMPS)
    lamps = _of(directions)
    even = np.eye(9)[:, :1]
    vertical, _ = problem.solve(_rings(up), np.zeros(_RINGS))
    free, amounts = problem.solve(np.c_[even, lamps], np.r_[0, np.ones(_LAMPS)])
    light, toward, share = vertical, None, 0.0
    if problem.error(free) < _WORTH * problem.error(vertical):
        toward = amounts[1:] @ directions
        light, toward, share = free, toward / np.linalg.norm(toward), float(amounts[1:].sum() / amounts.sum())
    explained = 1 - problem.error(light) / problem.error(even[:, 0])
    return LightFit(light * problem.gauge(light), toward, share, explained, problem.error(light) ** 0.5)


def _exposed(
    seen: Sightings, light: Float[Array, "9"], before: Float[Array, "K 3"] | float = 1.0
) -> tuple[float, Float[Array, "K 3"]]:
    """Factors of pictures' colours under a light, in closed form, and the error that they leave; outliers are those
    under the factors `before`.

    The logarithm of a colour is that of an albedo, of the shade, and of its picture's factor. With the albedos
    projected out, one linear equation is left for a picture.
    """
    before = np.broadcast_to(before, (int(seen.picture.max()) + 1, 3))
    problem = _Problem(seen.exposed_by(1 / before), _basis(seen.normal))
    shade = problem.shade(light)
    _, _, weight = problem.robust(shade)
    logarithms = []
    for colour in np.maximum(seen.colour.T, 1 / 255):
        trust = weight * colour**2  # a colour's errors, not its logarithm's, are alike in the dark and in the light
        table = coo_array((trust, (seen.surfel, seen.picture))).tocsr()
        sums = coo_array((trust * np.log(colour / shade), (seen.surfel, seen.picture))).tocsr()
        of_surfel = table.sum(1)
        mixing = table.multiply(1 / of_surfel[:, None]).T
        H = np.diag(table.sum(0)) - (mixing @ table).toarray()
        b = sums.sum(0) - mixing @ sums.sum(1)
        logarithms.append(np.linalg.lstsq(H, b, rcond=1e-9)[0])  # the shortest: of mean 0
    factors = np.exp(np.stack(logarithms, axis=1))
    return _Problem(seen.exposed_by(1 / factors), problem.basis).error(light), factors


def spread(count: int) -> Float[Array, "K 3"]:
    """Evenly spread unit vectors (Fibonacci)."""
    i = np.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    return np.stack([(1 - z * z) ** 0.5 * np.cos(turn), (1 - z * z) ** 0.5 * np.sin(turn), z], axis=1)


def _basis(normals: Float[Array, "M 3"]) -> Float[Array, "M 9"]:
    return irradiance_basis(torch.from_numpy(normals).double()).numpy()


def _of(directions: Float[Array, "K 3"]) -> Float[Array, "9 K"]:
    return irradiance_of(torch.from_numpy(directions)).numpy()


def _rings(up: Float[Array, "3"], around: int = 16) -> Float[Array, "9 K"]:
    """Lamps all around the vertical, at heights from straight below to straight above."""
    u = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    u /= np.linalg.norm(u)
    turn = 2 * np.pi * np.arange(around)[:, None] / around
    circle = np.cos(turn) * u + np.sin(turn) * np.cross(up, u)
    heights = np.linspace(-1, 1, _RINGS)
    return np.stack([_of(h * up + (1 - h * h) ** 0.5 * circle).mean(axis=1) for h in heights], axis=1)


class _Problem:
    """min over l, and for each l over the albedos a: sum_m w_m |c_m - a_s(m) E_m(l)^(1/GAMMA)|^2, with outliers held
    down, as fractions of all that was seen."""

    def __init__(self, seen: Sightings, basis: Float[Array, "M 9"]) -> None:
        self.seen, self.basis = seen, basis
        self.count = int(seen.surfel.max()) + 1
        self.total = float(seen.weight @ np.square(seen.colour).sum(1))

    def _sum(self, values: Float[Array, "M"]) -> Float[Array, "N"]:
        return np.bincount(self.seen.surfel, values, self.count)

    def _shade_and_slope(self, light: Float[Array, "9"]) -> tuple[Float[Array, "M"], Float[Array, "M 9"]]:
        """And its derivative by the light."""
        irradiance = np.maximum(self.basis @ light, _FLOOR)
        shade = irradiance ** (1 / GAMMA)
        return shade, (shade / irradiance / GAMMA)[:, None] * self.basis

    def shade(self, light: Float[Array, "9"]) -> Float[Array, "M"]:
        return self._shade_and_slope(light)[0]

    def _albedo(self, shade: Float[Array, "M"], weight: Float[Array, "M"]) -> Float[Array, "N 3"]:
        power = self._sum(weight * shade**2) + 1e-12
        return np.stack([self._sum(weight * shade * c) / power for c in self.seen.colour.T], axis=1)

    def robust(self, shade: Float[Array, "M"], rounds: int = 3) -> tuple[Array, Array, Array]:
        """Albedos, errors of colours, and the weights under which both are consistent (Cauchy's)."""
        weight = self.seen.weight
        albedo = errors = np.zeros(0)
        for _ in range(rounds):
            albedo = self._albedo(shade, weight)
            errors = self.seen.colour - albedo[self.seen.surfel] * shade[:, None]
            weight = self.seen.weight / (1 + np.square(errors).mean(1) / _NOISE**2)
        return albedo, errors, weight

    def error(self, light: Float[Array, "9"]) -> float:
        """Mean square of what is left of a colour; of an outlier, no more than its bound."""
        _, errors, _ = self.robust(self.shade(light))
        bounded = np.minimum(np.square(errors).mean(1), (2 * _NOISE) ** 2)
        return float(self.seen.weight @ bounded / self.seen.weight.sum())

    def gauge(self, light: Float[Array, "9"]) -> float:
        """Factor of the light that keeps albedos in reach."""
        brightest = np.quantile(self.robust(self.shade(light))[0], 0.995)
        return float(max(brightest / _BRIGHTEST, 1.0) ** GAMMA)

    def solve(
        self, lamps: Float[Array, "9 K"], prices: Float[Array, "K"], rounds: int = 12
    ) -> tuple[Float[Array, "9"], Float[Array, "K"]]:
        """The light of lamps that are not negative and add up to a mean of 1, and their amounts.

        Gauss-Newton with the albedos projected out (Kaufman's form); in each round, nine normal equations.
        """
        light, amounts = np.eye(9)[0], np.zeros(len(prices))
        surfel = self.seen.surfel
        for _ in range(rounds):
            shade, slope = self._shade_and_slope(light)
            albedo, errors, weight = self.robust(shade)
            power = self._sum(weight * shade**2) + 1e-12
            means = np.stack([self._sum(weight * shade * column) / power for column in slope.T], axis=1)
            slope = slope - means[surfel] * shade[:, None]
            seen = albedo[surfel]
            H = (slope * (weight * np.square(seen).sum(1))[:, None]).T @ slope / self.total
            g = slope.T @ (weight * (seen * errors).sum(1)) / self.total
            before, light = light, np.zeros(9)
            light, amounts = _nearest(H, H @ before + g, lamps, prices)
            if np.abs(light - before).max() < 3e-3:
                break
        return light, amounts


def _nearest(
    H: Float[Array, "9 9"], b: Float[Array, "9"], lamps: Float[Array, "9 K"], prices: Float[Array, "K"]
) -> tuple[Float[Array, "9"], Float[Array, "K"]]:
    """min over x >= 0 of l H l - 2 b l + _PRICE (prices x)^2, l = lamps x of degree 0 = 1; and a hint of even light."""
    values, vectors = np.linalg.eigh(H)
    root = np.sqrt(np.maximum(values, 1e-9))
    count = len(prices)
    rows = [
        (vectors * root).T @ lamps,
        100 * root.max() * np.ones((1, count)),  # the mean is 1
        _PRICE**0.5 * prices[None],
        1e-3 * count**0.5 * np.eye(count),
    ]
    wanted = np.r_[(vectors / root).T @ b, 100 * root.max(), np.zeros(1 + count)]
    amounts, _ = nnls(np.concatenate(rows), wanted, maxiter=100 * count)
    light = lamps @ amounts
    return light / light[0], amounts
