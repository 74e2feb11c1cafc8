"""From a capture's images to prior maps on disk: in batches, resumable, each file whole or not there."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.maps.info import Kind, Source, merge
from fmgs_nerfstudio.maps.maps import PngPriors, Priors, PriorsError, PriorsWriter, open_priors
from fmgs_nerfstudio.priors.checkpoints import Weights
from fmgs_nerfstudio.priors.crop import Box, paste, person_box
from fmgs_nerfstudio.priors.estimators.base import Estimator, EstimatorError, Image, Maps, Network

Progress = Callable[[str, int, int], None]
"""progress(what, done, total), in frames."""


@dataclass(frozen=True)
class Job:
    """What to do with a capture."""

    frames: Sequence[Frame]
    kinds: frozenset[Kind] | None = None
    """Wanted kinds; none: all that the networks give."""
    batch_size: int = 4
    crop: bool = False
    """Show the networks the person's box in place of the image."""
    overwrite: bool = False
    """Make the wanted kinds anew."""


def estimate(
    capture: Capture,
    networks: Sequence[Network],
    job: Job,
    find: Callable[[Weights], Path],
    progress: Progress = lambda what, done, total: None,
) -> int:
    """Write what is missing of the wanted maps to `<capture>/priors`; returns the number of files written.

    A map that is there is not made again, unless `overwrite` (then all maps of its kind go when the first new one
    comes). Networks run one after another, so that memory holds one; all of them are found before the first runs.

    Raises:
        PriorsError: there are maps of the kind that another estimator made.
        CheckpointError, EstimatorError: weights or options cannot be used, or a network's output is no map.
    """
    gives = sorted({kind for network in networks for kind in network.kinds})
    if strange := sorted((job.kinds or frozenset()) - set(gives)):
        raise EstimatorError(f"--kinds {strange[0]}: this estimator gives {', '.join(gives)}.")
    there = open_priors(capture.root)
    todo: list[tuple[Network, list[Kind], list[Frame]]] = []
    for network in networks:
        kinds: list[Kind] = [kind for kind in network.kinds if job.kinds is None or kind in job.kinds]
        if not job.overwrite:
            _check_sources(there, network, kinds, job)
        pending = [frame for frame in job.frames if job.overwrite or _missing(there, kinds, frame)]
        if pending:
            todo.append((network, kinds, pending))
    paths = [find(network.weights) if network.weights else Path() for network, _, _ in todo]
    written = 0
    for (network, kinds, pending), path in zip(todo, paths, strict=True):
        progress(", ".join(kinds), 0, len(pending))
        run = _Pass(capture, network, network.open(path), kinds, job)
        for done, files in run.over(pending):
            written += files
            progress(", ".join(kinds), done, len(pending))
        del run
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return written


def raw_capture(capture: Capture) -> Capture:
    """The same capture at the size of its files, as the lens saw it: how prior maps lie on disk."""
    cameras = {name: dataclasses.replace(camera, distortion=None) for name, camera in capture.cameras.items()}
    return dataclasses.replace(capture, cameras=cameras, downscale=1)


@dataclass(frozen=True)
class _Input:
    frame: Frame
    image: Image
    """The box of the image."""
    person: Bool[Array, "H W"]
    """The mask of the whole image, grown by a few pixels."""
    box: Box


class _Pass:
    """One network over the frames that lack its maps."""

    def __init__(self, capture: Capture, network: Network, estimator: Estimator, kinds: list[Kind], job: Job) -> None:
        self.capture, self.raw = capture, raw_capture(capture)
        self.network, self.estimator, self.kinds, self.job = network, estimator, kinds, job

    def over(self, frames: Sequence[Frame]) -> Iterator[tuple[int, int]]:
        """Yields (frames done, files written since) batch by batch; reads ahead and writes behind."""
        step = self.job.batch_size
        batches = [frames[i : i + step] for i in range(0, len(frames), step)]
        writer, writes = None, []
        with ThreadPoolExecutor(3, thread_name_prefix="fmgs-priors") as pool:
            ahead = pool.submit(self._read, batches[0])
            for number, following in enumerate([*batches[1:], []]):
                inputs = ahead.result()
                ahead = pool.submit(self._read, following)
                found = self._estimate(inputs)
                writer = writer or self._start()
                files = _finish(writes)
                writes = [pool.submit(self._write, writer, i, m) for i, m in zip(inputs, found, strict=True)]
                yield number * step, files
            yield len(frames), _finish(writes)

    def _estimate(self, inputs: Sequence[_Input]) -> Sequence[Maps]:
        try:
            return self.estimator([item.image for item in inputs])
        except torch.cuda.OutOfMemoryError as error:
            raise EstimatorError(
                f"{self.network.name} does not fit into the GPU's memory with a batch of {len(inputs)}: try "
                "--batch-size 1, --dtype bfloat16, or a smaller --size."
            ) from error

    def _start(self) -> PriorsWriter:
        """Describe the new maps, and make room for them where they replace others."""
        there = open_priors(self.capture.root)
        there = there if isinstance(there, PngPriors) else None
        source = _source(self.network, self.job)
        new = dataclasses.replace(
            self.estimator.info, estimator=source.estimator, licence=source.licence, crop=source.crop
        )
        if there is None:
            info = dataclasses.replace(new, sources={})
        else:
            # A resumed run keeps what was said before, corrections included.
            fresh: list[Kind] = [kind for kind in self.kinds if self.job.overwrite or kind not in there.kinds]
            info = merge(there.info, there.kinds, new, fresh) if fresh else there.info
        if self.job.overwrite:
            for kind in self.kinds:
                shutil.rmtree(self.capture.root / "priors" / kind, ignore_errors=True)
        return PriorsWriter(self.capture.root, info)

    def _read(self, frames: Sequence[Frame]) -> list[_Input]:
        return [self._input(frame) for frame in frames]

    def _input(self, frame: Frame) -> _Input:
        image = self.raw.image(frame)
        mask = self.raw.mask(frame)
        box = person_box(mask) if self.job.crop else person_box(np.zeros_like(mask))
        reach = 2 * max(2, round(0.01 * max(mask.shape))) + 1
        person = cv2.dilate((mask > 0.5).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
        return _Input(frame, np.ascontiguousarray(image[box]), person, box)

    def _write(self, writer: PriorsWriter, item: _Input, maps: Maps) -> int:
        written = 0
        for kind in self.kinds:
            path = writer.root / kind / item.frame.camera / f"{item.frame.stem}.png"
            if path.is_file():
                continue
            height, width = item.person.shape
            values = paste(kind, self._checked(kind, item, maps), item.box, (height, width))
            writer.write(kind, item.frame.camera, item.frame.stem, _confined(values, item.person, kind))
            written += 1
        return written

    def _checked(self, kind: Kind, item: _Input, maps: Maps) -> Array:
        values, where = maps[kind], f"{self.network.name}: {kind} of {item.frame.camera}/{item.frame.stem}"
        expected = (*item.image.shape[:2], 3) if kind == "normal" else item.image.shape[:2]
        if values.shape != expected:
            raise EstimatorError(f"{where} has the shape {values.shape}, expected {expected}.")
        if not np.isfinite(values).all():
            raise EstimatorError(f"{where} is not finite; half precision overflows on some devices: --dtype float32.")
        return values


def _confined(values: Array, person: Bool[Array, "H W"], kind: Kind) -> Array:
    """Depth clipped to its range over the person: the background, which nobody supervised, costs no resolution."""
    if kind != "depth" or not person.any():
        return values
    return np.clip(values, values[person].min(), values[person].max())


def _finish(writes: list[Future[int]]) -> int:
    return sum(write.result() for write in writes)


def _source(network: Network, job: Job) -> Source:
    licence = network.weights.licence if network.weights else "none"
    return Source(network.name, licence, "person" if job.crop else "none")


def _missing(there: Priors | None, kinds: Sequence[Kind], frame: Frame) -> bool:
    if not isinstance(there, PngPriors):
        return bool(kinds)
    return any(not there.exists(kind, frame.camera, frame.stem) for kind in kinds)


def _check_sources(there: Priors | None, network: Network, kinds: Sequence[Kind], job: Job) -> None:
    if not isinstance(there, PngPriors):
        return
    wanted = _source(network, job)
    for kind in kinds:
        found = there.info.source(kind)
        if kind in there.kinds and (found.estimator, found.crop) != (wanted.estimator, wanted.crop):
            raise PriorsError(
                f"{there.root / kind} holds maps of {found.estimator} (crop: {found.crop}), not of {wanted.estimator} "
                f"(crop: {wanted.crop}). Keep them and choose other --kinds, or replace them with --overwrite."
            )
