"""nerfstudio's trainer, made so that nothing is lost: whole checkpoints, signals, and losses that are not finite."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shlex
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.misc import step_check
from torch import Tensor

from fmgs_nerfstudio.checkpoints import CheckpointError, newest_whole_checkpoint, step_of, why_torn
from fmgs_nerfstudio.files import atomic_path, folder_beside, to_disk
from fmgs_nerfstudio.kernels.memory import give_back_freed_memory, keep_freed_memory
from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.kernels.threads import one_torch_thread
from fmgs_nerfstudio.pipeline import FMGSPipeline, FMGSPipelineConfig
from fmgs_nerfstudio.progress import Progress, ProgressConfig
from fmgs_nerfstudio.signals import Stopped, StopSignals

_MOST_WAITING = 100
"""Steps whose losses stay on the device at most, where logging fetches them more rarely."""
_TIDY_EVERY = 100
"""Steps after which kept memory is given back: crops have all sizes, and what is free falls into pieces. Half a step's
time each."""
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_RESUMING = ("--load-dir", "--load-step", "--load-checkpoint", "--max-num-iterations")


class NotFiniteError(ArithmeticError):
    """A loss or a parameter is NaN or infinite; the message says which, where and when."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class LossWatch:
    """Losses of the last steps, left on the device until they are fetched together: one wait for all of them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str, list[str], Tensor]] = []
        self.before = "no other"
        """Frame of the last step that was fetched."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, step: int, frame: str, losses: dict[str, Tensor]) -> None:
        """Keep the losses of a step, scalars by the names of their terms, that drew a frame."""
        device = next(iter(losses.values())).device
        values = torch.stack([value.detach().to(device).reshape(()) for value in losses.values()])
        self._waiting.append((step, frame, list(losses), values))

    def fetch(self) -> dict[str, Tensor]:
        """The losses of the last step, on the CPU; empty where none were added since the last call.

        Raises:
            NotFiniteError: those of a step since the last call are not finite; names the first.
        """
        if not self._waiting:
            return {}
        steps, self._waiting = self._waiting, []
        rows = torch.cat([values for *_, values in steps]).cpu().split([len(values) for *_, values in steps])
        for (step, frame, names, _), row in zip(steps, rows, strict=True):
            values = dict(zip(names, row.tolist(), strict=True))
            if wrong := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
                drew = f"step {step} drew frame {frame}, the one before {self.before}"
                raise NotFiniteError(step, f"the loss is not finite: {', '.join(wrong)}; {drew}")
            self.before = frame
        return dict(zip(steps[-1][2], rows[-1], strict=True))


def start_from(config: TrainerConfig) -> Path | None:
    """The checkpoint that a run goes on from: the newest whole one of `load_dir`, or the one that is named.

    Raises:
        CheckpointError: there is none, or the named one is not whole.
    """
    path = config.load_checkpoint
    if config.load_dir is not None:
        if config.load_step is None:
            return newest_whole_checkpoint(config.load_dir)
        path = config.load_dir / f"step-{config.load_step:09d}.ckpt"
    if path is not None and (reason := why_torn(path)) is not None:
        raise CheckpointError(f"{path}: {reason}; give its folder as --load-dir, and the newest whole one is used")
    return path


class FMGSTrainer(Trainer):
    """Checkpoints are written aside, and the one before stays until the new one is on the disk. Ctrl-C, SIGTERM and
    SIGHUP end a run after the step in hand, with a checkpoint; so does, without one, a loss that is not finite."""

    pipeline: FMGSPipeline

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self.signals = StopSignals()
        self.losses = LossWatch()
        terminal = config.logging.local_writer
        shown = terminal.enable and not (isinstance(terminal, ProgressConfig) and terminal.table)
        self.progress = Progress(config.max_num_iterations, self.base_dir / "training.log", shown)
        self.trained: int | None = None
        """Last step that is in the parameters as a whole."""
        self.saved: int | None = None
        """Step of the last checkpoint that this process wrote."""

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """As the host's; exits in one line where the checkpoint cannot be used.

        Raises:
            SystemExit: as in `train`.
        """
        if self.config.machine.device_type == "cpu":
            keep_freed_memory()
        with self._ends_in_words():
            super().setup(test_mode)
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        self.callbacks = [
            TrainingCallback([before], lambda step: self.signals.hold(), update_every_num_iters=1),
            *self.callbacks,
            TrainingCallback([after], self._step_is_whole, update_every_num_iters=1),
        ]
        if self.config.machine.device_type == "cpu":
            self.callbacks.append(TrainingCallback([before], lambda step: give_back_freed_memory(), _TIDY_EVERY))

    def train(self) -> None:
        """Train to the end.

        Raises:
            SystemExit: with status 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP; with 1 where a loss is not finite,
                or the disk or the card's memory is full. Says what is saved, where, and the command that goes on.
        """
        self.base_dir.mkdir(parents=True, exist_ok=True)  # of several ranks, one would find that another was quicker
        with self._ends_in_words(), self.progress:
            super().train()

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """As the host's; losses that are about to be logged come back on the CPU.

        Raises:
            NotFiniteError: see `LossWatch`.
        """
        with one_torch_thread(), full_precision():
            loss, losses, metrics = super().train_iteration(step)
        drawn = self.pipeline.datamanager.drawn
        self.losses.add(step, f"{drawn.camera}/{drawn.stem}", {"their sum": loss, **losses})
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True) or len(self.losses) >= _MOST_WAITING:
            losses = self.losses.fetch()
            loss = losses.pop("their sum")
            self.progress.saw(float(loss), float(metrics["psnr"]))
        return loss, losses, metrics

    def _step_is_whole(self, step: int) -> None:
        self.trained = step
        self.progress.done(step)
        self.signals.release()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint, and only when it is on the disk, remove older ones.

        Raises:
            NotFiniteError: losses or parameters are not finite; the checkpoint before stays.
            CheckpointError: it cannot be written; the checkpoint before stays.
        """
        if step == self.saved:  # the host saves the last step twice
            return
        self.losses.fetch()
        self._check_parameters(step)
        with self.signals.held():
            path = self._write(step, self.checkpoint_dir)
            self.saved = step
            if self.config.save_only_latest_checkpoint:
                for other in self.checkpoint_dir.glob("*.ckpt"):
                    if other != path:
                        other.unlink()

    def _check_parameters(self, step: int) -> None:
        named = dict(self.pipeline.named_parameters())
        finite = torch.stack([value.isfinite().all() for value in named.values()]).tolist()
        if wrong := [name for name, good in zip(named, finite, strict=True) if not good]:
            shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            drew = f"step {step} drew frame {self.losses.before}"
            raise NotFiniteError(step, f"parameters are not finite, although the losses were: {shown}; {drew}")

    def _write(self, step: int, folder: Path) -> Path:
        """The host's checkpoint in `folder`, which never holds half of it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with folder_beside(folder.resolve()) as aside:  # resolved: a link may lead to another disk
                own, self.checkpoint_dir = self.checkpoint_dir, aside
                try:
                    super().save_checkpoint(step)
                finally:
                    self.checkpoint_dir = own
                (made,) = aside.iterdir()
                to_disk(made)
                os.replace(made, folder / made.name)
            to_disk(folder)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
            free = shutil.disk_usage(self.base_dir).free / 1e6
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written to {folder}, where {free:,.0f} MB are free: "
                f"{_first_line(error)}"
            ) from error
        return folder / made.name

    def _load_checkpoint(self) -> None:
        # Which one, `start_from` has chosen (FMGSTrainerConfig.resolve_defaults).
        try:
            super()._load_checkpoint()
        except torch.cuda.OutOfMemoryError:
            raise
        except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError) as error:
            path = self.config.load_checkpoint or self.config.load_dir
            raise SystemExit(f"\nerror: {path} does not fit this run: {_first_line(error)}") from error

    # --- ends ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _ends_in_words(self) -> Generator[None]:
        """Heed signals, and end the process with a message where the user can do something about it."""
        try:
            with self.signals:
                try:
                    yield
                except Stopped as stop:
                    self._leave(stop)
        except NotFiniteError as error:
            sys.exit(f"\nerror: {error}. {self._keep(error)}\n{self._how_to_go_on()}")
        except CheckpointError as error:
            sys.exit(f"\nerror: {error}\n{self._how_to_go_on()}")
        except torch.cuda.OutOfMemoryError as error:
            sys.exit(f"\nerror: {_too_little_memory(self.config, error)}\n{self._how_to_go_on()}")
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            sys.exit(f"\nerror: {error}\n{self._how_to_go_on()}")

    def _leave(self, stop: Stopped) -> NoReturn:
        """Save what was trained and exit."""
        if self.trained is None:
            print(f"\nStopped by {stop} before the first step was done; nothing was saved", file=sys.stderr)
        else:
            self.save_checkpoint(self.trained)
            writer.write_out_storage()
            print(f"\nStopped by {stop} after step {self.trained}.\n{self._how_to_go_on()}", file=sys.stderr)
        sys.exit(stop.status)

    def _keep(self, error: NotFiniteError) -> str:
        """Save the state after the step, beside the checkpoints. Returns what to do about it."""
        if not comms.is_main_process():
            return "This is not the process that keeps states. fmgs-check tells what is wrong with a capture"
        try:
            path = self._write(error.step, self.base_dir / "not_finite")
            with atomic_path(path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps({"step": error.step, "error": str(error)}, indent=2) + "\n")
            kept = f"The state after this step is kept in {path}"
        except (CheckpointError, OSError) as also:
            kept = f"The state after this step could not be kept: {also}"
        return f"{kept}. fmgs-check tells what is wrong with a capture; else try lower learning rates"

    def _how_to_go_on(self) -> str:
        """Where the last checkpoint is, and the command that goes on from it."""
        end = self._start_step + self.config.max_num_iterations
        try:
            path = newest_whole_checkpoint(self.checkpoint_dir)
            origin, left = ["--load-dir", str(path.parent)], end - step_of(path) - 1
        except CheckpointError:  # none of its own yet
            if (path := self.config.load_checkpoint) is None:
                return "There is no checkpoint to go on from."
            origin, left = ["--load-checkpoint", str(path)], end - self._start_step
        if left < 1:
            return f"The run is complete: {path}"
        command = resume_command(self.config, [*origin, "--max-num-iterations", str(left)])
        return f"The last checkpoint is {path}; to go on:\n  {command}"


def _too_little_memory(config: TrainerConfig, error: torch.cuda.OutOfMemoryError) -> str:
    """What to lower, first what costs the avatar least."""
    pipeline = cast(FMGSPipelineConfig, config.pipeline)
    downscale = pipeline.datamanager.dataparser.downscale_factor or "chosen for 512 pixels"
    return (
        f"the card has too little memory: {_first_line(error)}\n"
        "Close what else runs on it. Else lower, one after another (the last two in a new run only):\n"
        f"  --pipeline.model.rendering.supersampling 1 (now {pipeline.model.rendering.supersampling})\n"
        f"  --pipeline.datamanager.dataparser.downscale-factor: a larger one (now {downscale})\n"
        f"  --pipeline.model.n-vertices: fewer (now {pipeline.model.n_vertices})\n"
        "or train on the CPU: --machine.device-type cpu"
    )


def resume_command(config: TrainerConfig, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """The command line of this process, with the options that go on in place of those it was begun with."""
    program, *given = arguments or sys.argv
    command = ["ns-train", str(config.method_name)]
    as_given = Path(program).stem == "ns-train" and given[:1] == command[1:]
    if not as_given or any(argument.startswith("--load-config") for argument in given):
        data = config.pipeline.datamanager.data
        return shlex.join([*command, "--data", str(data), *options]) + "  (and the options this run was begun with)"
    kept, rest = list[str](), iter(given[1:])
    for argument in rest:
        name, _, value = argument.replace("_", "-").partition("=")
        if name not in _RESUMING:
            kept.append(argument)
        elif not value:
            next(rest, None)
    return shlex.join([*command, *options, *kept])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
