"""What fmgs-check refuses, ns-train refuses before it writes anything, with the same sentence; what it calls ready
trains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import open_capture
from nerfstudio.engine.trainer import Trainer
from nerfstudio.scripts.train import main as ns_train
from support.known_person import write
from support.silhouette_capture import Content, content, write_content
from support.trainer_runs import config_for, train

from fmgs_nerfstudio.cli.check import main
from fmgs_nerfstudio.data import FMGSDataManager
from fmgs_nerfstudio.maps.maps import Kind, PriorsInfo, PriorsWriter
from fmgs_nerfstudio.method import FMGSTrainerConfig

N = 4
Spoil = Callable[[Content], None]
Damage = Callable[[Path], None]


@cache
def _content(cameras: int) -> Content:
    return content(N, cameras)


def good(cameras: int = 1) -> Content:
    """A capture of its own: what is spoilt is not shared."""
    made = _content(cameras)
    return Content(
        [K.copy() for K in made.K],
        [R.copy() for R in made.R],
        [T.copy() for T in made.T],
        [{key: value.copy() for key, value in fit.items()} for fit in made.fits],
        [[mask.copy() for mask in masks] for masks in made.masks],
    )


def config(root: Path, out: Path, steps: int = 2) -> FMGSTrainerConfig:
    made = config_for(root, out, steps)
    made.pipeline.datamanager.check_fit = True
    return made


def squeezed(text: str) -> str:
    """Without the breaks of lines that a terminal makes."""
    return re.sub(r"\s", "", text)


def checked(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status of fmgs-check, and the sentences of its refusal."""
    open_capture.cache_clear()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(root)])
    told = capsys.readouterr()
    refusals = re.split("Notready:|Note:", squeezed(told.out))[1:] if "Not ready" in told.out else []
    refusals += squeezed(told.err).removeprefix("fmgs-check:").split("\0") if "fmgs-check: " in told.err else []
    assert isinstance(end.value.code, int)
    return end.value.code, refusals


def refused(root: Path, out: Path) -> str:
    """What ns-train says when it first looks at the capture."""
    open_capture.cache_clear()
    with pytest.raises(SystemExit) as end:
        config(root, out).save_config()
    assert not out.exists()
    return str(end.value.code)


# Numbers ----------------------------------------------------------------------


def K(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(made: Content) -> None:
        made.K = [change(K) for K in made.K]

    return spoil


def fit(key: str, value: float, *frames: int) -> Spoil:
    def spoil(made: Content) -> None:
        for i in frames or range(N):
            made.fits[i][key][0, -1] = value

    return spoil


def in_degrees(made: Content) -> None:
    for fit in made.fits:
        fit["poses"] = np.degrees(fit["poses"])


def beside_the_image(made: Content) -> None:
    for fit in made.fits:
        fit["Th"] = fit["Th"] + [9.0, 0.0, 0.0]


def camera(**changes: np.ndarray) -> Spoil:
    def spoil(made: Content) -> None:
        for name, value in changes.items():
            setattr(made, name, [value] * len(made.K))

    return spoil


def masks(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(made: Content) -> None:
        made.masks = [[change(mask) for mask in masks] for masks in made.masks]

    return spoil


NUMBERS: dict[str, tuple[Spoil, str]] = {
    "K is zero": (K(lambda K: 0 * K), r"annots\.npy: camera Camera_B1: its focal length is 0, 0 pixels"),
    "singular K": (K(lambda K: K * [[1], [0], [1]]), "its focal length is 210, 0 pixels"),
    "negative focal length": (K(lambda K: K * [[-1], [1], [1]]), "its focal length is -210, 210 pixels"),
    "focal length in millimetres": (K(lambda K: K * [[0.01], [0.01], [1]]), "no lens has at 224 x 192"),
    "principal point far away": (K(lambda K: np.add(K, [[0, 0, 5e3], [0] * 3, [0] * 3])), "principal point is at 5104"),
    "K's last row": (K(lambda K: 2 * K), r"its K is .* expected \[\[fx, 0, cx\]"),
    "R is zero": (camera(R=np.zeros((3, 3))), "its R is no rotation"),
    "R mirrors": (camera(R=np.diag([1.0, 1, -1])), "its R is no rotation"),
    "a camera on the moon": (camera(T=np.array([0, 0, 4e8])), r"its translation is 4e\+08 m"),
    "NaN in a camera": (camera(T=np.array([0, 0, np.nan])), r"annots\.npy: T is not finite"),
    "a huge pose": (
        fit("poses", 1e30, 1),
        r"1 of 4 images have a fit that is none: Camera_B1/000001.*1\.npy: a joint turns by 1e\+30 rad",
    ),
    "poses in degrees": (in_degrees, r"4 of 4 images .*0\.npy: a joint turns by \d+\S* rad"),
    "a huge shape": (fit("shapes", 1e30, 2), r"Camera_B1/000002.*2\.npy: betas reach 1e\+30"),
    "a huger shape": (fit("shapes", 1e300, 2), r"Camera_B1/000002.*2\.npy: betas reach 1e\+300"),
    "a huge translation": (fit("Th", 1e30, 0, 3), r"2 of 4 .*Camera_B1/000000, Camera_B1/000003.*the person is 1e\+30"),
    "poses that are NaN": (fit("poses", np.nan), r"no training image can be used.*4 without parameters"),
    "white masks": (masks(np.ones_like), "no training image .*4 without an outline: Camera_B1/000000"),
    "black masks": (masks(np.zeros_like), "no training image .*4 without a person: Camera_B1/000000"),
    "masks of another thing": (masks(lambda mask: np.roll(mask, 90, 1)), "the body is not on the person"),
    "inverted masks": (masks(np.logical_not), "the masks are inverted"),
    "the person is elsewhere": (beside_the_image, "the body is outside the image .* in 4 of 4 frames: Camera_B1/0000"),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, expected = NUMBERS[case]
    made = good()
    spoil(made)
    agree(write_content(tmp_path / "CoreView_1", made), expected, capsys)


def agree(root: Path, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both refuse, in the same words."""
    code, sentences = checked(root, capsys)
    told = refused(root, root.parent / "out")
    assert code == 1
    assert sentences
    assert re.search(expected, " ".join(told.split()))
    for sentence in sentences[:1]:
        assert sentence in squeezed(told)


# Files --------------------------------------------------------------------------


def of_png(path: Path) -> None:
    """A PNG whose inside is zeros: only decoding it shows that."""
    encoded = bytearray(cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (192, 224, 3), np.uint8))[1])
    encoded[60:-20] = bytes(len(encoded) - 80)
    path.write_bytes(encoded)


def images(change: Callable[[Path], object]) -> Damage:
    def damage(root: Path) -> None:
        for path in (root / "Camera_B1").iterdir():
            change(path)

    return damage


def small_masks(root: Path) -> None:
    for path in (root / "mask_cihp" / "Camera_B1").iterdir():
        write(path, np.eye(96, 112, dtype=np.uint8))


def named(*names: str) -> Damage:
    """Images under these names."""

    def damage(root: Path) -> None:
        annots = np.load(root / "annots.npy", allow_pickle=True).item()
        for step in annots["ims"]:
            step["ims"] = [name.format(root=root) for name in names]
        np.save(root / "annots.npy", annots)

    return damage


def maps(root: Path, frames: range = range(N), kinds: tuple[Kind, ...] = ("depth", "normal", "semantics")) -> None:
    writer, shape = PriorsWriter(root, PriorsInfo(estimator="test", licence="none")), (192, 224)
    normal = np.zeros((*shape, 3), np.float32)
    normal[..., 2] = 1
    depth = np.linspace(2, 3, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    values = {"depth": depth, "normal": normal, "semantics": np.full(shape, 21, np.uint8)}
    for i in frames:
        for kind in kinds:
            writer.write(kind, "Camera_B1", f"{i:06d}", values[kind])


def prior(name: str, change: Callable[[Path], object]) -> Damage:
    def damage(root: Path) -> None:
        maps(root)
        change(root / "priors" / name)

    return damage


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_range(path: Path) -> None:
    write(path, np.zeros((192, 224), np.uint16))


def no_training(root: Path) -> None:
    part = {"cameras": ["Camera_B1"], "frames": [0]}
    parts = {"train": {**part, "frames": []}, "novel_view": part, "novel_pose": part}
    (root / "protocol.json").write_text(json.dumps({"name": "own", **parts}))


DEPTH = "depth/Camera_B1/000001.png"
FILES: dict[str, tuple[Damage, str]] = {
    "images that are cut off": (images(half), r"no training image .*4 unreadable: .*000000\.jpg is truncated"),
    "images of zeros": (images(of_png), r"none of 4 images that were looked at can be read: .*\.jpg cannot be read"),
    "masks of another size": (small_masks, "4 with a mask of another size"),
    "no images": (images(Path.unlink), r"no training image .*4 missing: .*000000\.jpg is missing"),
    "an empty split": (no_training, "no training image can be used.*the split names none"),
    "a name that climbs out": (named("../{root}/Camera_B1/000000.jpg"), r"annots\.npy names '\.\./"),
    "an absolute name": (named("{root}/Camera_B1/000000.jpg"), "expected a name inside"),
    "a name of Windows": (named("C:\\Camera_B1\\000000.jpg"), r"annots\.npy names 'C:"),
    "half a map": (prior(DEPTH, half), rf"1 of 4 prior maps of kind depth .*Camera_B1/000001 .*{DEPTH}: truncated"),
    "no map": (prior(DEPTH, lambda path: path.write_text("no image")), rf"{DEPTH}: truncated or not a PNG"),
    "a map of another size": (prior(DEPTH.replace("depth", "semantics"), lambda p: write(p, np.ones((9, 9), np.uint8))),
                              r"semantics/Camera_B1/000001\.png has 9 x 9 pixels"),
    "a map of another kind": (prior(DEPTH.replace("depth", "normal"), no_range), "mode I;16; normal is stored as RGB"),
    "depth without a scale": (prior(DEPTH, no_range), 'no PNG text chunk "range"'),
    "classes that are none": (
        prior(DEPTH.replace("depth", "semantics"), lambda path: write(path, np.full((192, 224), 28, np.uint8))),
        r"class ids 28\.\.28, expected 0\.\.27",
    ),
    "priors.json": (prior("priors.json", half), r"priors\.json cannot be read as JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    damage, expected = FILES[case]
    root = write_content(tmp_path / "CoreView_1", good())
    damage(root)
    agree(root, expected, capsys)


def test_ns_train_refuses_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own main; exit status 1 without a traceback is what Python makes of a SystemExit that says something."""
    monkeypatch.chdir(tmp_path)
    made = good()
    beside_the_image(made)
    root = write_content(tmp_path / "CoreView_1", made)
    with pytest.raises(SystemExit) as end:
        ns_train(config(root, tmp_path / "out"))
    assert "is not ready: the body is outside the image" in str(end.value.code)
    assert "--pipeline.datamanager.check-fit False" in str(end.value.code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CoreView_1"]


def test_who_knows_better_trains_all_the_same(tmp_path: Path) -> None:
    """A misfit may be overruled; what cannot be read or cannot be may not."""
    made = good()
    beside_the_image(made)
    root = write_content(tmp_path / "CoreView_1", made)
    config_for(root, tmp_path / "out", 2).save_config()
    assert (tmp_path / "out").exists()
    prior(DEPTH, half)(root)
    open_capture.cache_clear()
    with pytest.raises(SystemExit, match="prior maps of kind depth"):
        config_for(root, tmp_path / "other", 2).save_config()


# Odd, and good ----------------------------------------------------------------------


def cropped(made: Content) -> None:
    """The principal point is outside of the image; rotation vectors wind once more round."""
    made.masks = [[mask[:, 106:] for mask in masks] for masks in made.masks]
    for K in made.K:
        K[0, 2] -= 106
    for fit in made.fits:
        fit["Rh"] = fit["Rh"] * (1 + 2 * np.pi / np.linalg.norm(fit["Rh"]))


def elsewhere(root: Path) -> None:
    """Images are a link, as data sets are shared."""
    (root / "Camera_B1").rename(root.parent / "images of all")
    (root / "Camera_B1").symlink_to(root.parent / "images of all")


def faulty_frames(made: Content) -> None:
    """Of eight, one trackers saw nobody in, one with a white mask, one with a black one."""
    for part in (made.fits, made.masks):
        part += list(part)
    made.fits[1] = {**made.fits[1], "Th": np.full((1, 3), np.nan)}
    made.masks[2] = [np.ones_like(mask) for mask in made.masks[2]]
    made.masks[4] = [np.zeros_like(mask) for mask in made.masks[4]]


def some_maps(root: Path) -> None:
    maps(root, range(6, 8), ("depth", "normal"))
    (root / "Camera_B1" / "000000.jpg").unlink()


ODD: dict[str, tuple[Spoil, Damage, int, int]] = {
    "cropped, linked": (cropped, elsewhere, 2, N),
    "faulty frames": (faulty_frames, some_maps, 1, 4),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_but_good_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, arrange, cameras, left = ODD[case]
    made = good(cameras)
    spoil(made)
    root = write_content(tmp_path / "CoreView_1", made)
    arrange(root)
    assert checked(root, capsys) == (0, [])
    trainer = train(config(root, tmp_path / "out"))
    assert isinstance(trainer, Trainer)
    assert trainer.step == 1
    assert isinstance(trainer.pipeline.datamanager, FMGSDataManager)
    assert len(trainer.pipeline.datamanager.train_dataset) == left
    assert all(torch.isfinite(value).all() for value in trainer.pipeline.model.state_dict().values())
