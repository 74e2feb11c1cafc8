"""What masks of every kind mean: one person in three frames, of which the middle one is empty."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.files import image_size
from fmgs_dataparsers.mask_folder import FolderMask, MaskFolder, alpha_of, mask_size, read_values
from fmgs_dataparsers.parser import open_capture
from PIL import Image
from support.known_person import HEIGHT, WIDTH, Person, mask, picture, which, write
from support.layout_capture import wham

PERSON = np.zeros((12, 16), bool)
PERSON[3:10, 5:9] = True
EMPTY = np.zeros_like(PERSON)
COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [1, 2, 3] * 252  # as DAVIS and PASCAL draw ids
Save = Callable[[Path, np.ndarray], None]


def gray(low: int, high: int, kind: type = np.uint8) -> Save:
    return lambda path, person: Image.fromarray(np.where(person, high, low).astype(kind)).save(path)


def index(id: int, palette: list[int] = COLOURS) -> Save:
    def save(path: Path, person: np.ndarray) -> None:
        image = Image.fromarray((person * id).astype(np.uint8))
        image.putpalette(palette)
        image.save(path)

    return save


def cut_out(mode: str) -> Save:
    """Colours that say nothing, the person in alpha."""

    def save(path: Path, person: np.ndarray) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (*person.shape, 3)).astype(np.uint8)
        image = Image.fromarray(noise).convert(mode)
        image.putalpha(Image.fromarray(person.astype(np.uint8) * 255))
        image.save(path)

    return save


def opaque(path: Path, person: np.ndarray) -> None:
    Image.fromarray(person.astype(np.uint8) * 255).convert("RGBA").save(path)


def one_bit(path: Path, person: np.ndarray) -> None:
    Image.fromarray(person).save(path)


def array(values: Callable[[np.ndarray], np.ndarray]) -> Save:
    return lambda path, person: np.save(path.with_suffix(".npy"), values(person))


KINDS: dict[str, tuple[Save, str]] = {
    "0 and 255": (gray(0, 255), ""),
    "0 and 1": (gray(0, 1), ""),
    "0 and 2": (gray(0, 2), "hold 0 and 2, of which 2 is"),
    "1 and 7": (gray(1, 7), "hold 1 and 7, of which 7 is"),
    "16 bits": (gray(0, 65535, np.uint16), ""),
    "an id of 16 bits": (gray(0, 1001, np.uint16), "of which 1001 is"),
    "one bit": (one_bit, ""),
    "palette, 1": (index(1), "index 1 is taken for the person, whatever its colour"),
    "palette, 3": (index(3), "index 3 is"),
    "a gray palette": (index(1, [0, 0, 0, 255, 255, 255]), ""),
    "RGBA": (cut_out("RGB"), "are read from the alpha channel"),
    "LA": (cut_out("L"), "are read from the alpha channel"),
    "RGBA, all opaque": (opaque, ""),
    "booleans": (array(lambda person: person), ""),
    "floats": (array(lambda person: person.astype(np.float32)), ""),
    "[1, H, W]": (array(lambda person: person[None] * np.int64(1)), ""),
}


def folder_of(tmp_path: Path, save: Save, frames: tuple[np.ndarray, ...] = (PERSON, EMPTY, PERSON[::-1])) -> MaskFolder:
    for i, frame in enumerate(frames):
        save(tmp_path / f"{i:02d}.png", frame)
    return MaskFolder(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_values_mean(tmp_path: Path, kind: str) -> None:
    save, told = KINDS[kind]
    folder = folder_of(tmp_path, save)
    for file, person in zip(sorted(tmp_path.iterdir()), (PERSON, EMPTY, PERSON[::-1]), strict=True):
        assert mask_size(file) == (16, 12)
        assert np.array_equal(folder.mask(file).read(), person), (kind, file)
    assert told in folder.meaning.told
    assert bool(told) == bool(folder.meaning.told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_person_seen_late_means_the_same(tmp_path: Path, kind: str) -> None:
    """Of 60 files not all are looked at, and in those nobody is seen."""
    save, _ = KINDS[kind]
    frames = [EMPTY] * 60
    frames[4] = PERSON
    folder = folder_of(tmp_path, save, tuple(frames))
    assert np.array_equal(folder.mask(sorted(tmp_path.iterdir())[4]).read(), PERSON)
    assert not folder.mask(sorted(tmp_path.iterdir())[5]).read().any()


def test_soft_masks_stay_soft(tmp_path: Path) -> None:
    soft = np.linspace(0, 1, 192).reshape(12, 16)
    for name, values in {
        "bytes.png": np.rint(soft * 255).astype(np.uint8), "deep.png": np.rint(soft * 65535).astype(np.uint16),
        "floats.npy": soft, "of255.npy": soft * 255,
        "edge.png": np.rint(np.clip(soft * 3 - 1, 0, 1) * 255).astype(np.uint8),
    }.items():  # fmt: skip
        file = tmp_path / name
        np.save(file, values) if file.suffix == ".npy" else Image.fromarray(values).save(file)
        folder = MaskFolder([file])
        wanted = np.clip(soft * 3 - 1, 0, 1) if name == "edge.png" else soft
        assert np.allclose(folder.mask(file).read(), wanted, atol=0.5 / 255), name
        assert folder.meaning.told == ""


def test_a_soft_mask_that_is_never_white(tmp_path: Path) -> None:
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(tmp_path / "a.png")
    folder = MaskFolder([tmp_path / "a.png"])
    assert folder.mask(tmp_path / "a.png").read().max() == 1
    assert "reach 119 only" in folder.meaning.told


def test_inverted(tmp_path: Path) -> None:
    gray(0, 255)(tmp_path / "a.png", ~PERSON)
    assert np.array_equal(MaskFolder([tmp_path / "a.png"], inverted=True).mask(tmp_path / "a.png").read(), PERSON)


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    for name, values, said in (
        ("logits", np.linspace(-9, 7, 192).reshape(12, 16), r"-9 to 7: logits\? Write them again"),
        ("nan", np.full((12, 16), np.nan), "not finite"),
        ("cube", np.zeros((3, 4, 5)), r"expected a mask \[H, W\]"),
        ("words", np.array([["a"]]), r"expected a mask \[H, W\]"),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(CaptureError, match=said):
            MaskFolder([tmp_path / f"{name}.npy"]).mask(tmp_path / f"{name}.npy").read()
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(CaptureError, match=r"cut\.png"):
        MaskFolder([tmp_path / "cut.png"]).mask(tmp_path / "cut.png").read()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_turns_masks_as_it_turns_images(tmp_path: Path, orientation: int, suffix: str) -> None:
    """PNGs too, which OpenCV leaves as they are or not, by its version and by the way it is called."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(PERSON.astype(np.uint8) * 255).save(file, exif=exif)
    # EXIF 2.32, 4.6.4: where the first row and the first column of the file are shown.
    rows = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}[orientation]
    columns = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    shown = PERSON if rows in ("top", "bottom") else PERSON.T
    shown = shown[::-1] if "bottom" in (rows, columns) else shown
    shown = shown[:, ::-1] if "right" in (rows, columns) else shown
    assert np.array_equal(read_values(file) > 127, shown)
    assert mask_size(file) == image_size(file) == shown.shape[::-1]
    cut = Image.fromarray(np.dstack([np.zeros((*PERSON.shape, 3), np.uint8), PERSON.astype(np.uint8) * 255]))
    cut.save(tmp_path / "cut.png", exif=exif)
    assert np.array_equal(read_values(tmp_path / "cut.png", "alpha") > 127, shown)


# Of a capture ---------------------------------------------------------------


def with_masks(root: Path, save: Save) -> Capture:
    """The known person with masks of this kind, beside images or, where there are none, in them."""
    wham(root, Person())
    files = sorted((root / "masks").iterdir())
    for i, file in enumerate(files):
        file.unlink()
        save(file, mask(i).astype(bool))
    open_capture.cache_clear()
    return open_capture(root)


def covered(capture: Capture) -> None:
    assert capture.left_out == ()
    for frames in capture.splits.values():
        for frame in frames:
            assert np.array_equal(capture.mask(frame), mask(which(capture.image(frame)))), frame


def shoes_and_neighbour(path: Path, person: np.ndarray) -> None:
    """Ids: 3 and 5 are parts of the person, 1 is someone larger beside them."""
    labels = np.where(person, 3, 0).astype(np.uint8)
    labels[person & (np.arange(HEIGHT)[:, None] > HEIGHT // 2)] = 5
    labels[:, : WIDTH // 5][labels[:, : WIDTH // 5] == 0] = 1
    Image.fromarray(labels).save(path)


def parsing_map(path: Path, person: np.ndarray) -> None:
    bands = 1 + np.arange(HEIGHT)[:, None] * 12 // HEIGHT
    Image.fromarray((person * bands).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("save", "told"),
    [
        (
            shoes_and_neighbour,
            "hold the ids 1, 3, 5; the person is 3, 5, by where the fitted body lies; if it",
        ),
        (parsing_map, "are a parsing map with the classes"),
        (index(2), "index 2 is taken for the person"),
        (cut_out("RGB"), "are read from the alpha channel"),
    ],
)
def test_ids_are_told_apart_by_the_body(
    tmp_path: Path, save: Save, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    covered(with_masks(tmp_path, save))
    said = " ".join(word for word in capsys.readouterr().out.split() if not word.startswith("assemble.py"))
    assert said.count(told) == 1


def test_a_body_on_none_of_the_ids_is_told(tmp_path: Path) -> None:
    labels = np.arange(192).reshape(12, 16) % 3
    np.save(tmp_path / "a.npy", labels)
    folder = MaskFolder([tmp_path / "a.npy"])
    assert "lies on none of them, so all are taken" in folder.choose_person([(labels, np.zeros((12, 16), bool))])
    assert np.array_equal(folder.mask(tmp_path / "a.npy").read(), labels > 0)


def test_cut_out_images_bring_their_masks(tmp_path: Path) -> None:
    wham(tmp_path, Person())
    shutil.rmtree(tmp_path / "masks")
    for i in range(Person().n):
        write(tmp_path / "images" / f"{i}.png", np.dstack([picture(i), mask(i).astype(np.uint8) * 255]))
    open_capture.cache_clear()
    covered(open_capture(tmp_path))
    assert alpha_of(sorted((tmp_path / "images").glob("*.png"))) is not None


def test_images_without_alpha_or_with_nothing_in_it_are_no_masks(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "rgb.png")
    Image.fromarray(picture(0)).convert("RGBA").save(tmp_path / "rgba.png")
    assert alpha_of([tmp_path / "rgb.png"]) is None
    assert alpha_of([tmp_path / "rgba.png"]) is None


def test_an_image_of_a_folder_without_its_alpha_is_named(tmp_path: Path) -> None:
    cut_out("RGB")(tmp_path / "a.png", PERSON)
    gray(0, 255)(tmp_path / "b.png", PERSON)
    folder = MaskFolder([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(CaptureError, match=r"b\.png has no alpha channel"):
        FolderMask(tmp_path / "b.png", folder).read()
