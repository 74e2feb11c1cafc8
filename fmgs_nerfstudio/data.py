"""Images, masks and maps of a capture, read when they are needed: nerfstudio would cache every image of the video."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
import tyro
from fmgs_dataparsers.capture import Capture, CaptureError, Frame, Split
from fmgs_dataparsers.parser import FMGSDataParserConfig
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils import comms
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.judge.fit_check import check_capture
from fmgs_nerfstudio.judge.prior_maps import LEARNT, prior_problems
from fmgs_nerfstudio.maps.maps import Kind, PriorsError
from fmgs_nerfstudio.metrics.bounds import BodyBounds

Batch = dict[str, Any]
DECODERS = max(1, min(8, (os.cpu_count() or 1) // 2))
"""Threads that decode images: on two cores one, and training has the other."""


class AvatarDataset(InputDataset):
    """One split of a capture: images on the background colour, masks, and exact maps where they may be read."""

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        # The host copies metadata; the capture is shared, and it is immutable.
        self.metadata = dataparser_outputs.metadata
        self.capture: Capture = self.metadata["capture"]
        self.frames: tuple[Frame, ...] = self.metadata["frames"]
        self.background = torch.tensor(self.metadata["background"])
        self.with_truth = False
        self._told: set[str] = set()
        self.bounds = BodyBounds(self.capture)

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> Batch:
        """image [H, W, 3] in 0..1 on the background colour and mask [H, W, 1] in 0..1.

        Training also gets what there is of `prior_depth`, `prior_normal` and `prior_semantics` (`Capture.prior`);
        evaluation `bound` [H, W, 1], where the posed body's box is seen, and what there is of `truth_*`
        (`Capture.truth`), and then the exact mask in place of the capture's.
        """
        frame = self.frames[image_idx]
        truth = self.capture.truth(frame) if self.with_truth else {}
        mask = torch.from_numpy(truth.pop("mask") if truth else self.capture.mask(frame))[..., None]
        image = torch.from_numpy(self.capture.image(frame)).float() / 255
        image = image * mask + self.background * (1 - mask)
        maps = {f"truth_{kind}": torch.tensor(value) for kind, value in truth.items()}
        if self.with_truth:
            maps["bound"] = torch.from_numpy(self.bounds.mask(frame))[..., None]
        else:
            priors = ((kind, self._prior(kind, frame)) for kind in LEARNT)
            maps |= {f"prior_{kind}": torch.tensor(value) for kind, value in priors if value is not None}
        return {"image_idx": image_idx, "image": image, "mask": mask, **maps}

    def _prior(self, kind: Kind, frame: Frame) -> Array | None:
        """None, told once, also where a map turns out to be damaged: the start looked at headers and a few maps."""
        try:
            return self.capture.prior(kind, frame)
        except (CaptureError, PriorsError) as error:
            if str(error) not in self._told:
                log(f"{frame.camera}/{frame.stem} trains without its {kind} map: {error}")
            self._told.add(str(error))
            return None


@dataclass
class FMGSDataManagerConfig(FullImageDatamanagerConfig):
    """Full images of one capture, decoded ahead of the training loop into a bounded cache."""

    _target: type = field(default_factory=lambda: FMGSDataManager)
    dataparser: FMGSDataParserConfig = field(default_factory=FMGSDataParserConfig)
    """Reader of the capture."""
    cache_megabytes: int = 1024
    """Memory for decoded training frames, in megabytes."""
    check_fit: bool = True
    """Refuse a capture whose body is not on the person, as fmgs-check does. False: train on it all the same."""
    crop_margin: float | None = 0.25
    """Training crops images to the mask's box plus this fraction of its longer side. None: whole images."""
    train_cameras_sampling_seed: int = 42
    """Seed of the order of training frames."""
    # How nerfstudio caches, scales and samples images; the capture and `FrameCache` do that here.
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False
    camera_res_scale_factor: tyro.conf.Suppress[float] = 1.0
    eval_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    eval_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_image_indices: tyro.conf.Suppress[tuple[int, ...] | None] = None
    cache_images: tyro.conf.Suppress[Literal["cpu", "gpu"]] = "gpu"
    cache_images_type: tyro.conf.Suppress[Literal["uint8", "float32"]] = "float32"
    max_thread_workers: tyro.conf.Suppress[int | None] = None
    train_cameras_sampling_strategy: tyro.conf.Suppress[Literal["random", "fps"]] = "random"
    fps_reset_every: tyro.conf.Suppress[int] = 100


@lru_cache(maxsize=4)
def refuse_unready(capture: Capture, check_fit: bool) -> None:
    """Judge the capture as `fmgs-check` does, before anything is written.

    Raises:
        SystemExit: it is not ready, told without a traceback (see `FMGSDataParser.capture`).
    """
    report = check_capture(capture, doubts=False) if check_fit else None
    broken, misfits = (report.broken, report.misfits) if report else (prior_problems(capture), ())
    if broken or misfits:
        told = [f"{capture.root} is not ready: {problem}" for problem in (*broken, *misfits)]
        if misfits:
            told.append(
                f"  fmgs-check {capture.root} draws it. Where you know better, "
                "--pipeline.datamanager.check-fit False trains on it all the same"
            )
        raise SystemExit("\nerror: " + "\n".join(told))
    if report:
        log(f"Ready: body and masks overlap by {report.mean:.2f} (mean IoU of {len(report.frames)} frames)")


class FMGSDataManager(FullImageDatamanager[AvatarDataset]):
    """nerfstudio's full-image data manager with two differences: what is cached, and that the frame of a step depends
    on seed, step and rank alone, so that a resumed run sees the same frames (nerfstudio saves no random state)."""

    config: FMGSDataManagerConfig
    drawn: Frame
    """The frame of the last training step."""

    def create_eval_dataset(self) -> AvatarDataset:
        dataset = super().create_eval_dataset()
        dataset.with_truth = True
        return dataset

    @cached_property
    def cached_train(self) -> FrameCache:
        self.train_cameras = self.train_dataset.cameras  # on the CPU, where the model reads their numbers
        return FrameCache(self._cropped, len(self.train_dataset), self.config.cache_megabytes)

    @property
    def _on_card(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @cached_property
    def _least_size(self) -> tuple[int, int]:
        """Height and width of training crops at least: a card replays steps of one size, that of the largest."""
        margin = self.config.crop_margin
        if not self._on_card or margin is None:
            return 0, 0

        def size(frame: Frame) -> tuple[int, int]:
            try:
                box = _box(self.train_dataset.capture.mask(frame), margin)
            except CaptureError:  # told when its turn comes
                box = None
            return (0, 0) if box is None else (box[1] - box[0], box[3] - box[2])

        with ThreadPoolExecutor(max_workers=DECODERS) as pool:
            heights, widths = zip(*pool.map(size, self.train_dataset.frames), strict=True)
        return max(heights), max(widths)

    def _cropped(self, index: int) -> Batch:
        """Maps `at_half`, and their `camera`; for a card in memory that it reads while the host goes on."""
        camera, maps = self.train_cameras[index : index + 1], self.train_dataset.get_data(index)
        camera, batch = crop_to_person(camera, maps, self.config.crop_margin, self._least_size)
        on_card, batch = self._on_card, at_half(batch)
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        kept = {name: value.pin_memory() if on_card else value.contiguous() for name, value in tensors.items()}
        return batch | kept | {"camera": camera}

    @cached_property
    def cached_eval(self) -> FrameCache:
        return FrameCache(self.eval_dataset.get_data, len(self.eval_dataset), megabytes=0)  # each is seen once

    def next_train(self, step: int) -> tuple[Cameras, Batch]:
        """The frame of this step: every frame once per pass, each pass in an order of its own, shared out to ranks."""
        count = len(self.train_dataset)
        order = itertools.chain((self._train_index(s) for s in range(step, step + count)), range(count))
        try:
            ahead = [self._train_index(s) for s in range(step + 1, step + 2 + DECODERS)]
            index, batch = self.cached_train.first(order, ahead)
        except CaptureError as error:
            raise SystemExit(f"\nerror: {error}") from error
        self.drawn = self.train_dataset.frames[index]
        batch = at_full({name: self._on_device(value) for name, value in batch.items()})
        return batch.pop("camera"), batch

    def _on_device(self, value: Any) -> Any:
        return value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value

    def _train_index(self, step: int) -> int:
        """Several ranks draw different frames in each step; where they do not divide the pass, its end repeats its
        first frames."""
        count, ranks = len(self.train_dataset), comms.get_world_size()
        done, at = divmod(step, -(-count // ranks))
        order = np.random.default_rng((self.config.train_cameras_sampling_seed, done)).permutation(count)
        return int(order[(at * ranks + comms.get_rank()) % count])

    def next_eval_image(self, step: int) -> tuple[Cameras, Batch]:
        """A held-out image, another one each time."""
        order = np.random.default_rng(step).permutation(len(self.eval_dataset))
        index, batch = self.cached_eval.first(int(i) for i in order)
        return self._eval_cameras[index : index + 1], batch.copy()

    @cached_property
    def _eval_cameras(self) -> Cameras:
        return deepcopy(self.eval_dataset.cameras).to(self.device)

    @property
    def fixed_indices_eval_dataloader(self) -> EvalLoader:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All held-out images, decoded one after another."""
        return EvalLoader(self._eval_cameras, self.cached_eval, range(len(self.eval_dataset)))

    def eval_loader(self, split: Split) -> EvalLoader:
        """The held-out images of one split."""
        members = set(self.eval_dataset.capture.splits[split])
        chosen = [i for i, frame in enumerate(self.eval_dataset.frames) if frame in members]
        return EvalLoader(self._eval_cameras, self.cached_eval, chosen)

    def get_train_rays_per_batch(self) -> int:
        cameras = self.train_dataset.cameras
        return int(cameras.height[0]) * int(cameras.width[0])


def at_half(maps: Batch) -> Batch:
    """Colours, coverage and normals at half precision, by which they are off by a sixteenth of an 8-bit level at most;
    depth, which has no such range, and the rest as they are."""
    kept = ("image", "mask", "prior_normal")
    return {name: value.half() if name in kept else value for name, value in maps.items()}


def at_full(maps: Batch) -> Batch:
    """What is `at_half`, at the precision that is computed with."""
    halves = {name: value for name, value in maps.items() if isinstance(value, Tensor) and value.dtype == torch.float16}
    return maps | {name: value.float() for name, value in halves.items()}


def crop_to_person(
    camera: Cameras, batch: Batch, margin: float | None, least: tuple[int, int] = (0, 0)
) -> tuple[Cameras, Batch]:
    """Cut all maps of `batch` [H, W, ...] and the camera to the box of the mask, grown by `margin` of its longer side.

    Where nothing is masked, or without a margin, all is kept. A crop of less than the `least` height and width takes in
    more of the image, as far as there is any; then `enlarged` [] is its pixels over those that it would have had.
    """
    if margin is None or (box := _box(batch["mask"][..., 0].numpy(force=True), margin)) is None:
        return camera, batch.copy()
    height, width = batch["mask"].shape[:2]
    own = (box[1] - box[0]) * (box[3] - box[2])
    (y0, y1), (x0, x1) = _widened(*box[:2], least[0], height), _widened(*box[2:], least[1], width)
    cropped = Cameras(
        camera_to_worlds=camera.camera_to_worlds,
        fx=camera.fx,
        fy=camera.fy,
        cx=camera.cx - x0,
        cy=camera.cy - y0,
        width=torch.full_like(camera.width, x1 - x0),
        height=torch.full_like(camera.height, y1 - y0),
        times=camera.times,
        metadata=camera.metadata,
    )
    cut = {name: value[y0:y1, x0:x1] if isinstance(value, Tensor) else value for name, value in batch.items()}
    enlarged = {"enlarged": torch.tensor((y1 - y0) * (x1 - x0) / own)} if any(least) else {}
    return cropped, cut | enlarged


def _box(mask: Float[Array, "H W"], margin: float) -> tuple[int, int, int, int] | None:
    """Rows [y0, y1) and columns [x0, x1) of the mask with its margin; None where it is empty."""
    rows, columns = (np.flatnonzero(mask.max(axis)) for axis in (1, 0))  # numpy's are ten times as fast as torch's
    if len(rows) == 0:
        return None
    grow = round(margin * max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])))
    height, width = mask.shape
    y0, y1 = max(int(rows[0]) - grow, 0), min(int(rows[-1]) + 1 + grow, height)
    x0, x1 = max(int(columns[0]) - grow, 0), min(int(columns[-1]) + 1 + grow, width)
    return y0, y1, x0, x1


def _widened(first: int, end: int, least: int, limit: int) -> tuple[int, int]:
    """A range of at least this length about the same middle, moved to where it lies within the limit."""
    size = min(max(end - first, least), limit)
    first = min(max(first - (size - (end - first)) // 2, 0), limit - size)
    return first, first + size


class EvalLoader:
    """Pairs of camera and batch; a sequence only as far as nerfstudio asks (length and iteration)."""

    def __init__(self, cameras: Cameras, frames: FrameCache, indices: Sequence[int]) -> None:
        self.cameras, self.frames, self.indices = cameras, frames, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Cameras, Batch]]:
        for index in self.indices:
            if (batch := self.frames.readable(index)) is not None:
                yield self.cameras[index : index + 1], batch.copy()


class FrameCache:
    """Decoded frames, the least recently used dropped first, and threads that decode what comes next."""

    def __init__(self, load: Callable[[int], Batch], length: int, megabytes: int) -> None:
        self._load, self._length, self._bytes = load, length, megabytes * 2**20
        self._frames: OrderedDict[int, Future[Batch]] = OrderedDict()
        self._worker = ThreadPoolExecutor(max_workers=DECODERS, thread_name_prefix="fmgs-decode")
        self._unreadable: dict[int, Exception] = {}
        self._capacity = 4  # frames, until the size of one is known

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return self.get(index)

    def first(self, candidates: Iterable[int], ahead: Iterable[int] = ()) -> tuple[int, Batch]:
        """The first of `candidates` that can be decoded, and its frame.

        Raises:
            CaptureError: none of them can.
        """
        for index in candidates:
            if (batch := self.readable(index, ahead)) is not None:
                return index, batch
        cause = next(iter(self._unreadable.values()))
        raise CaptureError(f"none of {len(self._unreadable)} images of the capture can be decoded: {cause}")

    def readable(self, index: int, ahead: Iterable[int] = ()) -> Batch | None:
        """Frame `index`, or None, told once, where one of its files is corrupt inside: opening the capture looked at
        the files' ends alone."""
        try:
            return self.get(index, ahead)
        except (CaptureError, PriorsError) as error:
            if index not in self._unreadable:
                log(f"Skipped: {error}")
            self._unreadable[index] = error
            return None

    def get(self, index: int, ahead: Iterable[int] = ()) -> Batch:
        """Frame `index`; frames `ahead` are decoded in the background meanwhile, the first as far as there is room."""
        for wanted in (index, *itertools.islice(ahead, self._capacity - 2)):
            if wanted not in self._frames:
                self._frames[wanted] = self._worker.submit(self._load, wanted)
            self._frames.move_to_end(wanted)
        batch = self._frames[index].result()
        self._capacity = max(4, self._bytes // _size(batch))
        while len(self._frames) > self._capacity:
            self._frames.popitem(last=False)
        return batch


def _size(batch: Batch) -> int:
    return sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, Tensor))
