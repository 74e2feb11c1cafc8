"""From files to what the losses see: background, masks, resampling, undistortion, order of channels, directions.

One frame is written with colours and places that are known exactly, by numpy and Pillow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fmgs_dataparsers.capture import Capture, Frame, PinholeCamera, Split
from fmgs_dataparsers.parser import FMGSDataParserConfig, open_capture
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from PIL import Image
from support.small_avatar import small_avatar
from support.zju_capture import SIZE, write_capture
from torch import Tensor

from fmgs_nerfstudio.data import AvatarDataset, FMGSDataManagerConfig
from fmgs_nerfstudio.maps.info import PriorsInfo
from fmgs_nerfstudio.maps.maps import PriorsWriter, open_priors, write_labels, write_mask, write_normal
from fmgs_nerfstudio.model import FMGSModelConfig

WIDTH, HEIGHT = 96, 80
RED, GREEN, BLUE = 200, 100, 50
K = np.array([[90.0, 0, 46.3], [0, 94.0, 41.8], [0, 0, 1]])
LENS = np.array([0.12, -0.06, 0.002, -0.001, 0.02])


@dataclass(frozen=True)
class Given:
    """A mask that is no file."""

    values: np.ndarray
    file: Path = Path("mask")

    def size(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[0]

    def read(self) -> np.ndarray:
        return self.values.astype(np.float32)


def capture_of(root: Path, image: np.ndarray, mask: np.ndarray, lens: np.ndarray | None = None) -> Capture:
    """A capture of one frame, `camera/000000`."""
    (root / "camera").mkdir(parents=True, exist_ok=True)
    path = root / "camera" / "000000.png"
    Image.fromarray(image.astype(np.uint8)).save(path)
    height, width = image.shape[:2]
    frame = Frame("camera", "000000", path, Given(mask), pose_id=0)
    camera = PinholeCamera(K, np.eye(4), width, height, lens)
    return Capture(
        root, "test", "test", {"camera": camera}, {"train": (frame,), "novel_view": (), "novel_pose": ()},
        np.zeros((1, 72)), np.zeros((1, 3)), np.zeros(10), root, (0.0, 1.0, 0.0), None,
    )  # fmt: skip


def flat(colour: Sequence[int] = (RED, GREEN, BLUE)) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (HEIGHT, WIDTH, 3))


# --- resampling -------------------------------------------------------------------------------------------------------


GRID = np.stack(np.meshgrid(np.arange(12.2, WIDTH - 10, 14.3), np.arange(11.7, HEIGHT - 10, 13.1)), axis=-1).reshape(
    -1, 2
)
"""Points of the image without distortion, in our pixels: the first one's centre is at (0.5, 0.5)."""


def through_the_lens(points: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """Brown's model, as OpenCV documents it, on our pixels."""
    k1, k2, p1, p2, k3 = lens
    x, y = ((points - K[:2, 2]) / [K[0, 0], K[1, 1]]).T
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    bent = [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y]
    return np.stack(bent, axis=1) * [K[0, 0], K[1, 1]] + K[:2, 2]


def without_the_lens(points: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """The inverse of `through_the_lens`, step by step."""
    straight = points.copy()
    for _ in range(100):
        straight -= through_the_lens(straight, lens) - points
    return straight


def dots(lens: np.ndarray) -> np.ndarray:
    """What the lens makes of bell-shaped dots, 0..1, at `GRID`."""
    rows, columns = np.indices((HEIGHT, WIDTH)) + 0.5
    seen = without_the_lens(np.stack([columns, rows], axis=-1).reshape(-1, 2), lens)
    away2 = ((seen[:, None] - GRID) ** 2).sum(-1)
    return np.exp(-away2 / (2 * 1.5**2)).sum(1).reshape(HEIGHT, WIDTH)


def found(picture: np.ndarray, near: np.ndarray, reach: float) -> np.ndarray:
    """Weighted middles of the dots that are expected `near`, in our pixels."""
    rows, columns = np.indices(picture.shape) + 0.5
    middles = []
    for x, y in near:
        weight = picture * ((columns - x) ** 2 + (rows - y) ** 2 < reach**2)
        middles.append([(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()])
    return np.array(middles)


LENSES = pytest.mark.parametrize("lens", [LENS, np.r_[0.2, 0, 0, 0, 0], np.r_[0, 0.2, 0, 0, 0.1], np.zeros(5)], ids=str)


@LENSES
def test_undistortion_looks_where_the_lens_put_things(tmp_path: Path, lens: np.ndarray) -> None:
    """A mask that says of each pixel where a pinhole would have seen it says so of itself afterwards, to a hundredth of
    a pixel around every point of the grid."""
    rows, columns = np.indices((HEIGHT, WIDTH)) + 0.5
    straight = without_the_lens(np.stack([columns, rows], axis=-1).reshape(-1, 2), lens)
    assert np.abs(through_the_lens(GRID, lens) - GRID).max() > 0.6 or not lens.any()
    for axis, wanted in enumerate((columns, rows)):
        capture = capture_of(tmp_path, flat(), straight[:, axis].reshape(HEIGHT, WIDTH), lens)
        error = capture.mask(capture.splits["train"][0]) - wanted
        for x, y in GRID.astype(int):
            assert abs(error[y - 4 : y + 5, x - 4 : x + 5].mean()) < 0.01


@LENSES
def test_undistortion_puts_points_where_a_pinhole_sees_them(tmp_path: Path, lens: np.ndarray) -> None:
    """Drawn as the lens sees them, found where K alone puts them; image and mask alike. Interpolation between pixels
    moves the middle of so small a dot by a few hundredths."""
    seen = dots(lens)
    capture = capture_of(tmp_path, np.repeat(np.rint(250 * seen[..., None]), 3, axis=2), seen, lens)
    (frame,) = capture.splits["train"]
    for picture in (capture.mask(frame), capture.image(frame)[..., 0] / 250.0):
        error = found(picture, GRID, 5.0) - GRID
        assert np.abs(error.mean(0)).max() < 0.01
        assert np.abs(error).max() < 0.04


@pytest.mark.parametrize("downscale", [2, 3])
def test_reduced_images_keep_their_places(tmp_path: Path, downscale: int) -> None:
    """A point at p is at p / downscale, and K says the same of every ray; a remainder at the edges is cut off."""
    seen = dots(np.zeros(5))
    capture = replace(capture_of(tmp_path, np.repeat(250 * seen[..., None], 3, axis=2), seen), downscale=downscale)
    mask = capture.mask(capture.splits["train"][0])
    smaller, width, height = capture.intrinsics("camera")
    assert mask.shape == (height, width) == (HEIGHT // downscale, WIDTH // downscale)
    error = found(mask, GRID / downscale, 5.0 / downscale) - GRID / downscale
    assert np.abs(error.mean(0)).max() < 0.02
    rays = np.linalg.inv(K) @ np.c_[GRID, np.ones(len(GRID))].T
    assert np.allclose((smaller @ rays)[:2].T, GRID / downscale)


@pytest.mark.parametrize(("lens", "downscale"), [(LENS, 1), (None, 2), (LENS, 2)])
def test_class_ids_are_never_mixed(tmp_path: Path, lens: np.ndarray | None, downscale: int) -> None:
    """Between 4 and 20 there is no class 12; every pixel has the class of one near where it looks."""
    labels = np.where(np.indices((HEIGHT, WIDTH)).sum(0) // 7 % 2, 4, 20).astype(np.uint8)
    writer = PriorsWriter(tmp_path, PriorsInfo(estimator="test", licence="none"))
    writer.write("semantics", "camera", "000000", labels)
    writer.write("depth", "camera", "000000", labels.astype(np.float32))
    made = capture_of(tmp_path, flat(), np.ones((HEIGHT, WIDTH)), lens)
    capture = replace(made, priors=open_priors(tmp_path), downscale=downscale)
    (frame,) = capture.splits["train"]
    resampled = capture.prior("semantics", frame)
    assert resampled is not None
    assert set(np.unique(resampled)) <= {4, 20} | ({0} if lens is not None else set())  # 0: outside the lens's image
    rows, columns = (np.indices(resampled.shape) + 0.5) * downscale
    sources = through_the_lens(np.stack([columns, rows], axis=-1).reshape(-1, 2), np.zeros(5) if lens is None else lens)
    x, y = np.floor(sources).astype(int).T
    inside = (x >= 2) & (x < WIDTH - 2) & (y >= 2) & (y < HEIGHT - 2)
    near = np.stack([labels[y[inside] + i, x[inside] + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    one_class = (near == near[0]).all(0)
    assert one_class.mean() > 0.3
    assert (resampled.ravel()[inside] == near[0])[one_class].all()
    depth = capture.prior("depth", frame)
    assert depth is not None
    assert np.abs(depth - resampled)[resampled > 0].max() < 1e-3  # an edge in depth is not smeared either


# --- composition ------------------------------------------------------------------------------------------------------


def dataset_of(capture: Capture, background: tuple[float, float, float]) -> AvatarDataset:
    outputs = FMGSDataParserConfig(background=background).setup()
    outputs.capture = lambda: capture
    return AvatarDataset(outputs.get_dataparser_outputs("train"))


@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.4, 0.6)])
def test_the_person_stands_on_the_background(tmp_path: Path, background: tuple[float, float, float]) -> None:
    """mask x image + (1 - mask) x background, red first, in 0..1; the scene behind the person is gone."""
    mask = np.zeros((HEIGHT, WIDTH))
    mask[:20], mask[20:40] = 1.0, 0.25
    data = dataset_of(capture_of(tmp_path, flat(), mask), background).get_data(0)
    assert data["image"].shape == (HEIGHT, WIDTH, 3)
    assert data["mask"].shape == (HEIGHT, WIDTH, 1)
    colour, behind = np.array([RED, GREEN, BLUE]) / 255, np.array(background)
    for row, cover in ((0, 1.0), (30, 0.25), (60, 0.0)):
        assert data["image"][row, 50].numpy() == pytest.approx(cover * colour + (1 - cover) * behind, abs=1e-6)
        assert float(data["mask"][row, 50]) == cover


@pytest.fixture
def with_truth(tmp_path: Path) -> Path:
    """A capture in ZJU-MoCap's layout with prior maps and exact maps that all disagree; its mask leaves out 8 rows."""
    root = tmp_path / "CoreView_1"
    write_capture(root)
    writer = PriorsWriter(root, PriorsInfo(estimator="test", licence="none"))
    exact = np.zeros((SIZE, SIZE), np.float32)
    exact[:, 32:] = 1
    normal = np.broadcast_to(np.array([0.0, 0.0, 1.0], np.float32), (SIZE, SIZE, 3))
    for camera in ("Camera_B1", "Camera_B2"):
        for i in range(3):
            name = f"{i:06d}"
            writer.write("depth", camera, name, np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE))
            writer.write("semantics", camera, name, np.full((SIZE, SIZE), 3, np.uint8))
            writer.write("normal", camera, name, normal)
            folder = root / "ground_truth"
            for kind in ("depth", "normal", "semantics", "mask"):
                (folder / kind / camera).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((SIZE, SIZE), 25_000, np.uint16)).save(folder / "depth" / camera / f"{name}.png")
            write_normal(folder / "normal" / camera / f"{name}.png", normal, 16)
            write_labels(folder / "semantics" / camera / f"{name}.png", np.full((SIZE, SIZE), 9, np.uint8))
            write_mask(folder / "mask" / camera / f"{name}.png", exact)
    open_capture.cache_clear()
    return root


def test_training_never_reads_the_truth_and_evaluation_does(with_truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of training is the capture's, that of evaluation the exact one, and each image is cut out by its own."""
    read: list[str] = []
    original = Capture.truth
    monkeypatch.setattr(Capture, "truth", lambda self, frame: read.append(frame.camera) or original(self, frame))
    manager = FMGSDataManagerConfig(data=with_truth, crop_margin=10.0).setup(device="cpu", test_mode="val")
    for step in range(3):
        camera, batch = manager.next_train(step)
        assert set(batch) == {"image_idx", "image", "mask", "prior_depth", "prior_normal", "prior_semantics"}
        assert batch["mask"][:8].max() == 0
        assert batch["mask"][8:].min() == 1
        assert batch["image"][:8].max() == 0
        assert camera.metadata is not None
        assert batch["prior_depth"].flatten().diff().min() > 0  # as written: larger is farther
        assert (batch["prior_semantics"] == 3).all()
        assert batch["prior_normal"][5, 5].tolist() == pytest.approx([0, 0, 1], abs=5e-3)  # of 8 bits
    assert read == []
    ((_, batch), *_) = manager.fixed_indices_eval_dataloader
    assert read == ["Camera_B2"]
    truths = {"truth_depth", "truth_normal", "truth_semantics"}
    assert set(batch) == {"image_idx", "image", "mask", "bound"} | truths
    assert batch["mask"][:, :32].max() == 0
    assert batch["mask"][:, 32:].min() == 1
    assert batch["image"][:, :32].max() == 0
    assert float(batch["truth_depth"][5, 5]) == pytest.approx(2.5)  # tenths of a millimetre
    assert (batch["truth_semantics"] == 9).all()
    assert batch["bound"].dtype == torch.bool
    assert manager.next_eval_image(0)[1].keys() == batch.keys()


def test_held_out_views_and_poses_are_apart(tmp_path: Path) -> None:
    """Each split is evaluated on its own images, cameras and poses; the log shows another image each time."""
    write_capture(tmp_path, n_frames=6)
    cameras = ["Camera_B1", "Camera_B2"]
    parts = {"train": (cameras[:1], [0, 1, 2]), "novel_view": (cameras[1:], [0, 2]), "novel_pose": (cameras, [3, 5])}
    protocol = {split: {"cameras": of, "frames": frames} for split, (of, frames) in parts.items()}
    (tmp_path / "protocol.json").write_text(json.dumps({"name": "test", **protocol}))
    manager = FMGSDataManagerConfig(data=tmp_path).setup(device="cpu", test_mode="val")
    frames = manager.eval_dataset.frames

    def images(split: Split) -> list[tuple[str, int]]:
        loader = list(manager.eval_loader(split))
        shown = [frames[batch["image_idx"]] for _, batch in loader]
        asked = [camera.metadata["pose_id"].item() for camera, _ in loader]
        assert asked == [frame.pose_id for frame in shown]
        return [(frame.camera, int(frame.stem)) for frame in shown]

    assert images("novel_view") == [("Camera_B2", 0), ("Camera_B2", 2)]
    assert sorted(images("novel_pose")) == [(camera, i) for camera in cameras for i in (3, 5)]
    assert len({manager.next_eval_image(step)[1]["image_idx"] for step in range(20)}) > 3


# --- what the model makes of a camera ---------------------------------------------------------------------------------


def seen_from(position: Tensor, pose_id: int) -> Cameras:
    """A small image of the person's middle from a place in the world."""
    backward = torch.nn.functional.normalize(position, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), backward), dim=0)
    axes = torch.stack([right, torch.linalg.cross(backward, right), backward, position], dim=1)
    metadata = {"pose_id": torch.tensor([[pose_id]])}
    return Cameras(axes[None], 20.0, 20.0, 16.0, 12.0, 32, 24, metadata=metadata)


def test_the_appearance_field_sees_canonical_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the camera to each surfel, turned back by the inverse of the T that posed it, of unit length (4.2.2)."""
    model, position = small_avatar(), torch.tensor([1.5, -2.0, 0.7])
    directions: list[Tensor] = []

    def appearance(f_c: Tensor, z_g: Tensor, Z_p: Tensor, d_hat: Tensor) -> Tensor:
        directions.append(d_hat)
        return torch.zeros(len(d_hat), 3)

    monkeypatch.setattr(model.appearance, "forward", appearance)
    with torch.no_grad():
        model.get_outputs(seen_from(position, 1))
        avatar = model.pose_avatar(1)
    (found,) = directions
    T, mu = avatar.T.double(), avatar.canonical.means.double()
    sight = torch.einsum("nij,nj->ni", T[:, :, :3], mu) + T[:, :, 3] - position
    expected = torch.einsum("nij,nj->ni", torch.linalg.inv(T[:, :, :3]), sight)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    observed = sight / sight.norm(dim=1, keepdim=True)
    assert (found - observed).norm(dim=1).median() > 0.3  # canonical is not observed: the test would see it


def test_what_is_rendered_stands_on_the_same_background(tmp_path: Path) -> None:
    """The colour that the images of training are composed on is behind renders, too."""
    write_capture(tmp_path / "CoreView_1")
    data = FMGSDataParserConfig(data=tmp_path / "CoreView_1", background=(0.2, 0.4, 0.6))
    metadata = data.setup().get_dataparser_outputs("train").metadata
    config = FMGSModelConfig(n_vertices=6890)
    model = config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=metadata).eval()
    with torch.no_grad():
        outputs = model.get_outputs(seen_from(torch.tensor([3.0, 0.0, 0.3]), 0))
    empty = outputs["accumulation"][..., 0] == 0
    assert 0.1 < empty.float().mean() < 0.99
    torch.testing.assert_close(outputs["rgb"][empty], torch.tensor([0.2, 0.4, 0.6]).expand(int(empty.sum()), 3))
