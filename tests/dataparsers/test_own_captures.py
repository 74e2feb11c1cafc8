"""Captures as phones and people name and turn them, through the capture and through the data set that trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from fmgs_dataparsers.capture import CaptureError
from fmgs_dataparsers.parser import FMGSDataParser, FMGSDataParserConfig, open_capture
from PIL import Image
from support.known_person import HEIGHT, WIDTH, Person, mask, picture, view, which, write
from support.layout_capture import easymocap, wham, zju_refined_unlisted

from fmgs_nerfstudio.data import AvatarDataset


@pytest.fixture(autouse=True)
def _fresh() -> None:
    open_capture.cache_clear()


def without_video(root: Path, person: Person) -> None:
    wham(root, person)
    shutil.rmtree(root / "masks")
    (root / "clip.mp4").unlink()


def test_frames_without_zeros_before_their_numbers(tmp_path: Path) -> None:
    """1.jpg to 12.jpg: sorted as words, 10 would come second and have the second pose."""
    person = Person(12)
    without_video(tmp_path, person)
    for i in range(person.n):
        write(tmp_path / "images" / f"{i + 1}.jpg", picture(i))
        write(tmp_path / "masks" / f"{i + 1}.png", mask(i).astype(np.uint8) * 255)
    capture = open_capture(tmp_path)
    frames = [frame for members in capture.splits.values() for frame in members]
    assert len(frames) == person.n
    for frame in frames:
        assert frame.pose_id == which(capture.image(frame)) == int(frame.stem) - 1
        assert np.array_equal(capture.mask(frame), mask(frame.pose_id))


def test_folders_of_cameras_without_zeros_before_their_numbers(tmp_path: Path) -> None:
    """The second calibration is of the second camera, 10, and not of 9."""
    zju_refined_unlisted(tmp_path, Person())
    root = tmp_path / "my_377"
    for folder in ("images", "mask"):
        for old, new in (("00", "9"), ("01", "10")):
            (root / folder / old).rename(root / folder / new)
    cameras = open_capture(root).cameras
    assert np.allclose(cameras["9"].world_to_camera[:3, :3], view().R, atol=1e-6)
    assert np.allclose(cameras["10"].world_to_camera[:3, :3], view(40.0).R, atol=1e-6)


@pytest.mark.parametrize("mask_exif", [True, False])
def test_a_phone_held_upright(tmp_path: Path, mask_exif: bool) -> None:
    """Images lie in their files and are turned by EXIF; masks made of them have the tag too, or are turned for good."""
    person = Person()
    without_video(tmp_path, person)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter clockwise
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(person.n):
        lying = Image.fromarray(np.ascontiguousarray(np.rot90(picture(i))))
        lying.save(tmp_path / "images" / f"IMG_{i}.JPG", exif=turned, quality=100)
        covered = mask(i).astype(np.uint8) * 255
        if mask_exif:
            Image.fromarray(np.ascontiguousarray(np.rot90(covered))).save(
                tmp_path / "masks" / f"IMG_{i}.png", exif=turned
            )
        else:
            write(tmp_path / "masks" / f"IMG_{i}.png", covered)
    config = FMGSDataParserConfig(data=tmp_path)
    capture = FMGSDataParser(config).capture()
    assert capture.left_out == ()
    assert capture.intrinsics("camera")[1:] == (WIDTH, HEIGHT)
    data = AvatarDataset(FMGSDataParser(config).get_dataparser_outputs("train"))
    for i, frame in enumerate(data.frames):
        batch, seen = data.get_data(i), which(capture.image(frame))
        assert np.array_equal(batch["mask"][..., 0].numpy(), mask(seen))
        assert np.array_equal(capture.mask(frame), mask(seen))
        inside = batch["image"][mask(seen)]
        assert np.allclose(inside.numpy() * 255, picture(seen)[0, 0], atol=2)
        assert batch["image"][~mask(seen)].max() == 0


def test_cut_out_images_train_on_their_colours(tmp_path: Path) -> None:
    person = Person()
    without_video(tmp_path, person)
    for i in range(person.n):
        write(tmp_path / "images" / f"{i}.png", np.dstack([picture(i), mask(i).astype(np.uint8) * 255]))
    data = AvatarDataset(FMGSDataParser(FMGSDataParserConfig(data=tmp_path)).get_dataparser_outputs("train"))
    for i, frame in enumerate(data.frames):
        batch = data.get_data(i)
        assert np.array_equal(batch["mask"][..., 0].numpy(), mask(frame.pose_id))
        assert np.allclose(batch["image"][mask(frame.pose_id)].numpy() * 255, picture(frame.pose_id)[0, 0])


def test_cameras_that_nobody_uses_do_not_matter(tmp_path: Path) -> None:
    """Of eight cameras in intri.yml one has images, one no pose, and one is no number."""
    easymocap(tmp_path, Person())
    shutil.rmtree(tmp_path / "images" / "02")
    for file in ("intri.yml", "extri.yml"):
        text = (tmp_path / file).read_text()
        names = "".join(f'\n   - "0{i}"' for i in range(3, 9))
        (tmp_path / file).write_text(text.replace('- "02"', f'- "02"{names}'))
    text = (tmp_path / "intri.yml").read_text()
    storage = cv2.FileStorage(str(tmp_path / "extra.yml"), cv2.FILE_STORAGE_WRITE)
    storage.write("K_03", np.full((3, 3), np.nan))
    storage.release()
    (tmp_path / "intri.yml").write_text(text + (tmp_path / "extra.yml").read_text().split("---\n")[1])
    capture = open_capture(tmp_path)
    assert list(capture.cameras) == ["01"]
    assert capture.left_out == ()
    write(tmp_path / "images" / "03" / "000000.jpg", picture(0))
    open_capture.cache_clear()
    with pytest.raises(CaptureError, match=r"intri\.yml: K_03 is not finite"):
        open_capture(tmp_path)
