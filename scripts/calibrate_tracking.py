"""Make `fmgs_nerfstudio/track/calibration.npz` again: what the landmark network's sightings say of SMPL's joints.

    python scripts/calibrate_tracking.py WORK calibration.npz      # two hours of one core

People of `fmgs-demo` before photographs, by cameras of many heights, pitches and focal lengths: the motions of
`fmgs-demo --video`, and random poses, which are harder. `MEASURED` seeds, and the motions that only they have, are kept
for measuring. WORK keeps what was seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import sklearn.datasets
import torch

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo import motion
from fmgs_nerfstudio.demo.acts import MEASURED, on_the_ground, video_motion
from fmgs_nerfstudio.demo.motion import Clip, Limbs
from fmgs_nerfstudio.demo.person import Person
from fmgs_nerfstudio.demo.render import LIGHTS, PosedPerson
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.demo.studio import Motion
from fmgs_nerfstudio.demo.video import clock, place_camera
from fmgs_nerfstudio.track.chain import logarithm
from fmgs_nerfstudio.track.fit import fit
from fmgs_nerfstudio.track.landmarks import HIPS, Calibration, along_rays, in_numbers
from fmgs_nerfstudio.track.masks import person_mask
from fmgs_nerfstudio.track.mirror import OTHER_SIDE, mirrored, mirrored_joints, mirrored_landmarks, mirrored_rotations
from fmgs_nerfstudio.track.networks import LandmarkNetwork, Region
from fmgs_nerfstudio.track.records import N_LANDMARKS, Sightings
from fmgs_nerfstudio.track.terms import Stature

ACTS, RANDOM = 170, 170
"""Clips of acts, of which every `EVERY`-th frame is seen, and of random poses, with their `FRAMES`."""
FRAMES, EVERY = 28, 3
HIDDEN, EPOCHS, NOISE, DROPPED, DECAY = 512, 120, 0.1, 0.1, 0.1
"""The perceptron: width; passes; deviation of noise on what it sees, in deviations of that; share of its units that are
left out at random; weight decay."""
_POINT, _TURN = 0.1, 0.5  # metres and entries of rotations that count alike in its loss
_FOLDS = 4
_LONGER = 640  # pixels of the image's longer side


@dataclass
class Shot:
    """What was seen of a clip, and its truth in the camera."""

    sightings: Sightings
    K: Any
    turned: Any
    """[F, 24, 3, 3]"""
    joints: Any
    """[F, 24, 3], metres."""
    masks: Path | None
    lifted: Any = None
    """[F, 33, 3]: landmarks from the middle of the hips, along the ray to it."""
    along: Any = None
    """[F, 24, 3, 3]: rotations in the same axes."""

    @property
    def focal(self) -> float:
        return float(self.K[0, 0])

    @property
    def mirrored(self) -> Shot:
        seen = mirrored(self.sightings)
        return Shot(seen, self.K, mirrored_rotations(self.turned), mirrored_joints(self.joints), None)


def wander(t: Any, rng: np.random.Generator, low: float, high: float) -> Any:
    """Angles between two bounds, smooth over the clip."""
    rate, phase, share = rng.uniform(0.9, 3, (4, 1)), rng.uniform(0, 2 * np.pi, (4, 1)), rng.dirichlet(np.ones(4))
    return low + (high - low) * (0.5 + 0.75 * share @ np.sin(2 * np.pi * rate * t + phase)).clip(0, 1)


def anything(t: Any, rng: np.random.Generator) -> Clip:
    """Limbs that go their own ways, more or less wildly, of someone who turns."""
    body, wild = Limbs(len(t)), rng.uniform(0.3, 1)

    def r(low: float, high: float) -> Any:
        return wander(t, rng, low, high)

    for side in (0, 1):
        body.arm(
            side, lower=r(1.3 - 2.2 * wild, 1.4), swing=r(-0.6 * wild, 1.5 * wild), elbow=r(0.05, 0.4 + 1.9 * wild),
            twist=r(-0.9 * wild, 0.9 * wild),
        )  # fmt: skip
        lift = r(-0.35 * wild, 1.1 * wild)
        knee = lift.clip(0) * rng.uniform(0.3, 1.4) + r(0.02, 0.8 * wild)
        body.leg(side, lift=lift, knee=knee, apart=r(0.0, 0.35 * wild))
    body.spine(bend=r(-0.1, 0.5 * wild), twist=r(-0.5 * wild, 0.5 * wild), lean=r(-0.25 * wild, 0.25 * wild))
    body.head(nod=r(-0.3 * wild, 0.4 * wild), look=r(-0.7 * wild, 0.7 * wild))
    return body.clip(rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(-1.6, 1.6) * t)


MOTIONS: tuple[Callable[[Any, np.random.Generator], Clip], ...] = (
    anything, motion.turn, anything, motion.walk, anything, motion.dance, anything, motion.reach,
)  # fmt: skip


@dataclass(frozen=True)
class Take:
    """A clip."""

    kind: Literal["acts", "random"]
    number: int

    @property
    def seed(self) -> int:
        """Of fmgs-demo: its person, its camera, and what it does."""
        if self.kind == "random":
            return MEASURED.stop + self.number
        return self.number if self.number < MEASURED.start else 1000 + self.number - MEASURED.start

    @property
    def draws(self) -> int:
        """Seed of what fmgs-demo does not draw."""
        return self.seed + (31 if self.kind == "acts" else -MEASURED.stop)

    def performance(self, body: BodyModel) -> tuple[Motion, Any, Person]:
        """Motion, seconds, and person."""
        person = Person(self.seed, 1)
        betas = np.array(person.look.betas)
        if self.kind == "acts":
            times = clock(100, self.seed)
            return video_motion(body, betas, times, self.seed, np.zeros((0, 72))), times, person
        rng = np.random.default_rng([self.draws, 777])
        t = np.sort(rng.random(FRAMES))
        return on_the_ground(body, betas, MOTIONS[self.number % 8](t, rng).pose), 4 * t, person


def render(take: Take, folder: Path) -> None:
    """Images, masks of the network, and what it sees of one clip."""
    body, seed = BodyModel.load(BODY), take.seed
    moves, times, person = take.performance(body)
    rng = np.random.default_rng([take.draws, 778])
    width, height = (_LONGER * 9 // 16, _LONGER) if seed % 2 else (_LONGER, _LONGER * 9 // 16)
    points = moves.vertices[:, ::5].reshape(-1, 3)
    camera = place_camera(np.concatenate([points - 0.03, points + 0.03]), width, height, seed)
    photograph, light = _photograph(rng, width, height), list(LIGHTS.values())[int(rng.integers(4))]
    bones = camera.world_to_camera @ moves.bones
    joints = np.einsum("fjab,jb->fja", bones[..., :3, :3], moves.joints) + bones[..., :3, 3]
    flat = joints @ camera.K.T
    flat = flat[..., :2] / flat[..., 2:]
    network, region, rows = LandmarkNetwork(), None, []
    chosen = range(0, len(times), EVERY if take.kind == "acts" else 1)
    for frame in chosen:
        surface = person.posed(moves.bones[frame], moves.pose[frame])
        picture = PosedPerson(person, surface, light, seed=1000 * seed + frame).picture(camera, background=0.5)
        linear = (picture.rgb[..., ::-1] / 255.0) ** 2.2 + (1 - picture.mask[..., None]) * (photograph - 0.5**2.2)
        image = np.rint(255 * linear.clip(0, 1) ** (1 / 2.2)).astype(np.uint8)
        low, high = flat[frame].min(0), flat[frame].max(0)
        look = network(image, region or Region((low + high) / 2, 1.35 * float(max(high - low))))
        region = look.next if look.presence > 0.5 else None
        if region is not None:
            rows.append((frame, look.landmarks, look.depth, look.world, look.score))
            mask = np.rint(255 * person_mask(image, look)).astype(np.uint8)
            cv2.imwrite(str(folder / f"{frame:06d}.png"), mask)
    index, *seen = (np.array(column) for column in zip(*rows, strict=True))
    Sightings(index, times[index], *seen, size=(width, height)).write(folder / "sightings.npz")
    np.savez(folder / "truth.npz", turned=bones[index][..., :3, :3], joints=joints[index], K=camera.K)


def _photograph(rng: np.random.Generator, width: int, height: int) -> Any:
    """A piece of one of scikit-learn's photographs, linear."""
    name = ("china.jpg", "flower.jpg")[int(rng.integers(2))]
    photograph = sklearn.datasets.load_sample_image(name)[..., ::-1]
    scale = max(width / photograph.shape[1], height / photograph.shape[0]) * rng.uniform(1, 1.6)
    photograph = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (int(rng.integers(a - b + 1)) for a, b in zip(photograph.shape, (height, width), strict=False))
    return (photograph[top : top + height, left : left + width] / 255.0) ** 2.2


def read(folder: Path) -> Shot:
    with np.load(folder / "truth.npz") as truth:
        return Shot(Sightings.read(folder / "sightings.npz"), truth["K"], truth["turned"], truth["joints"], folder)


def offsets(shots: list[Shot], marks: Any) -> tuple[Any, Any]:
    """Of landmarks from their joints, and how they err: robust, linear in the offset; both sides alike."""
    offset, spread = np.zeros((N_LANDMARKS, 3)), np.zeros(N_LANDMARKS)
    for landmark in range(N_LANDMARKS):
        rows, right, score = [], [], []
        for shot in shots:
            base, axes = shot.joints[:, marks.joint[landmark]], shot.turned[:, marks.axes[landmark]]
            rays = (shot.sightings.landmarks[:, landmark] - shot.K[:2, 2]) / shot.K[0, 0]
            for i in (0, 1):
                rows.append(axes[:, i] - rays[:, i, None] * axes[:, 2])
                right.append(rays[:, i] * base[:, 2] - base[:, i])
                score.append(shot.sightings.score[:, landmark].clip(0.03, 1))
        A, b, q = np.concatenate(rows), np.concatenate(right), np.concatenate(score)
        weight = q
        for _ in range(15):
            turned = (A * weight[:, None]).T
            offset[landmark] = np.linalg.solve(turned @ A + 1e-3 * weight.sum() * np.eye(3), turned @ b)
            error = (b - A @ offset[landmark]) * np.sqrt(q)
            spread[landmark] = _robust_spread(error)
            weight = q / (1 + (error / (2 * spread[landmark])) ** 2)
    return (offset + mirrored_landmarks(offset[None])[0]) / 2, (spread + spread[OTHER_SIDE]) / 2


def _robust_spread(error: Any, axis: Any = 0) -> Any:
    return 1.48 * np.median(np.abs(error), axis=axis)


def lay(shots: list[Shot], marks: Any) -> None:
    """What the perceptron is to give."""
    hips = list(HIPS)
    for shot in shots:
        back = along_rays(shot.sightings.landmarks[:, hips].mean(1), shot.K).swapaxes(1, 2)
        points = shot.joints[:, marks.joint] + np.einsum("fmab,mb->fma", shot.turned[:, marks.axes], marks.offset)
        shot.lifted = np.einsum("fab,fmb->fma", back, points - points[:, hips].mean(1, keepdims=True))
        shot.along = back[:, None] @ shot.turned


def train(shots: list[Shot]) -> dict[str, Any]:
    """The perceptron of `Calibration.layers`, with `middle` and `spread`."""
    seen = [in_numbers(shot.sightings, shot.focal) for shot in shots]
    x = np.concatenate([numbers for _, numbers in seen])
    frames = len(x)
    points = np.concatenate([shot.lifted - world for shot, (world, _) in zip(shots, seen, strict=True)])
    y = np.c_[points.reshape(frames, -1), np.concatenate([shot.along for shot in shots]).reshape(frames, -1)]
    middle, spread, mean = x.mean(0), x.std(0) + 0.01, y.mean(0)
    unit = np.r_[np.full(3 * N_LANDMARKS, _POINT), np.full(y.shape[1] - 3 * N_LANDMARKS, _TURN)]
    inputs, wanted = torch.from_numpy((x - middle) / spread).float(), torch.from_numpy((y - mean) / unit).float()
    torch.manual_seed(0)
    linear = [torch.nn.Linear(a, b) for a, b in ((x.shape[1], HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, y.shape[1]))]
    between = [torch.nn.ReLU(), torch.nn.Dropout(DROPPED)]
    net = torch.nn.Sequential(linear[0], *between, linear[1], *between, linear[2])
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=DECAY)
    steps = EPOCHS * frames // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(frames, (128,))
        noisy = inputs[batch] + NOISE * torch.randn(128, x.shape[1])
        loss = torch.nn.functional.smooth_l1_loss(net(noisy), wanted[batch], beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    layers = [(layer.weight.detach().double().numpy().T, layer.bias.detach().double().numpy()) for layer in linear]
    layers[-1] = (layers[-1][0] * unit, layers[-1][1] * unit + mean)
    return {"middle": middle, "spread": spread, "layers": tuple(layers)}


def errors_of(shot: Shot, calibration: Calibration, body: BodyModel) -> tuple[list[Any], tuple[float, float]]:
    """What the fit gets wrong of a clip that the perceptron has not seen.

    Squares of what `Calibration.errors` lists; the fitted size and the true one, as `Calibration.size` has them.
    """
    fits = fit(shot.sightings, shot.masks, body, shot.focal, calibration=calibration)
    pose, transl = (torch.from_numpy(a).float() for a in (fits.pose, fits.transl))
    rest = body.shape(torch.from_numpy(fits.betas).float())[1]
    bones = fits.world_to_camera @ body.bones_reference(rest, pose, transl).double().numpy()
    turned, pelvis = bones[..., :3, :3], (bones[:, 0] @ np.r_[rest[0].double().numpy(), 1.0])[:, :3]
    parents = list(body.parents[1:22])
    local = [t[:, parents].swapaxes(-1, -2) @ t[:, 1:22] for t in (turned, shot.turned)]
    joints = logarithm(local[0].swapaxes(-1, -2) @ local[1])
    lean = logarithm(turned[:, 0] @ shot.turned[:, 0].swapaxes(-1, -2))[:, 0].mean()
    size = (shot.joints[:, 0] * pelvis).sum() / (pelvis**2).sum()
    off = (size * pelvis - shot.joints[:, 0]) / [1, 1, pelvis[:, 2].mean()]
    usual = Stature.of(body, 0.0)
    fitted = float(np.log1p(usual.by_shape @ fits.betas / usual.usual))
    return [(joints**2).sum(-1).mean(), *(off**2).mean(0), lean**2, (size - 1) ** 2], (fitted, fitted + np.log(size))


def calibrate(random: list[Shot], acts: list[Shot]) -> Calibration:
    """Everything in `Calibration`. Deviations are those of acts in clips that were left out of training."""
    body, marks = BodyModel.load(BODY), Calibration.load().marks
    both = [*random, *acts, *(shot.mirrored for shot in [*random, *acts])]
    offset, _ = offsets(both, marks)
    _, across = offsets(acts, marks)
    marks = type(marks)(marks.joint, marks.axes, offset)
    lay(both, marks)
    known: dict[str, Any] = {"offset": offset, "across": across, "dressed": np.full(24, 0.015), "sole": 0.0412}
    known |= {"space": np.full((N_LANDMARKS, 3), 0.04), "turn": np.full(24, 0.05), "scale": 0.04, "errors": np.zeros(6)}
    known["size"] = np.array([0.0, 1.0])
    left_out: list[tuple[Shot, Calibration]] = []
    for fold in range(_FOLDS):
        kept = [s for part in (random, acts) for i, s in enumerate(part) if i % _FOLDS != fold]
        others = [shot.mirrored for shot in kept]
        lay(others, marks)
        part = Calibration(**known | train([*kept, *others]))
        left_out += [(shot, part) for shot in acts[fold::_FOLDS]]
    points, turns, sizes = [], [], []
    for shot, part in left_out:
        lifted = part.lift(shot.sightings, shot.focal)
        sizes.append((shot.lifted * lifted.points).sum() / (lifted.points**2).sum())
        score = np.sqrt(shot.sightings.score.clip(0.03, 1))[..., None]
        points.append((sizes[-1] * lifted.points - shot.lifted) * score)
        turns.append(logarithm(lifted.turned.swapaxes(-1, -2) @ shot.along))
    known["space"] = _robust_spread(np.concatenate(points))
    known["turn"] = _robust_spread(np.concatenate(turns), (0, 2))
    known["scale"] = float(np.std(sizes))
    some = left_out[::3]
    fitted, true = zip(*(errors_of(shot, _with(part, known), body)[1] for shot, part in some), strict=True)
    slope, constant = np.polyfit(fitted, true, 1)
    known["size"] = np.array([constant, slope])
    rows = [errors_of(shot, _with(part, known), body)[0] for shot, part in some]
    return Calibration(**known | train(both) | {"errors": np.sqrt(np.mean(rows, 0))})


def _with(calibration: Calibration, values: dict[str, Any]) -> Calibration:
    return Calibration(**vars(calibration) | values)


def main(work: Path, out: Path) -> None:
    takes = [*(Take("random", i) for i in range(RANDOM)), *(Take("acts", i) for i in range(ACTS))]
    shots = []
    for count, take in enumerate(takes, 1):
        folder = work / f"{take.kind}-{take.number:04d}"
        if not (folder / "truth.npz").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            render(take, folder)
        shots.append(read(folder))
        print(f"clip {count} of {len(takes)}")
    calibrate(shots[:RANDOM], shots[RANDOM:]).write(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
