"""On a fake CUDA device, everything that people do with an avatar runs and gives the CPU's numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fmgs_dataparsers.parser import FMGSDataParserConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from support.fake_cuda import counted, fake_cuda, rasterize_held, uncounted
from support.gsplat_backend import install_backend
from support.trainer_runs import config_for, train
from support.zju_capture import SIZE, write_capture
from torch import Tensor, nn

from fmgs_nerfstudio import method, surfels
from fmgs_nerfstudio.cli import animate, export
from fmgs_nerfstudio.evaluation.pictures import held_out_sheet, orbit, turnaround
from fmgs_nerfstudio.evaluation.report.results import _at_rest
from fmgs_nerfstudio.evaluation.runs import Run, open_run
from fmgs_nerfstudio.export import baking
from fmgs_nerfstudio.export.fitting import baked_splats, fit_splats, picture_psnr
from fmgs_nerfstudio.export.surface import learned_mesh
from fmgs_nerfstudio.fields.light import Light, LightConfig
from fmgs_nerfstudio.fields.skinning import fit_to_surface
from fmgs_nerfstudio.frozen import FrozenAvatar, frames_per_second
from fmgs_nerfstudio.modalities import RenderingConfig, all_terms
from fmgs_nerfstudio.model import FMGSModel, FMGSModelConfig
from fmgs_nerfstudio.objective import LossWeights, Objective, Term
from fmgs_nerfstudio.recorded import Recorder
from fmgs_nerfstudio.relighting import Relighting
from fmgs_nerfstudio.rendering import Camera, Layer, cuda
from fmgs_nerfstudio.rendering.rasterize import _OF_GAUSSIANS, _OF_SURFELS
from fmgs_nerfstudio.schedule import Schedule
from fmgs_nerfstudio.surfels import SurfelsConfig
from fmgs_nerfstudio.viewer.control import AvatarViewer
from fmgs_nerfstudio.viewer.frame_overlay import FrameOverlay
from fmgs_nerfstudio.viewer.parts import Parts, Tint

Numbers = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replaced is what a card alone can do, and made shorter what takes long."""
    monkeypatch.setitem(_OF_SURFELS, "cuda", rasterize_held)
    monkeypatch.setattr(method, "check_backend", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone(memory_format=torch.contiguous_format))
    monkeypatch.setattr(baking, "DIRECTIONS", 20)
    with fake_cuda():
        yield


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captures") / "CoreView_1"
    write_capture(root)
    return root


@pytest.fixture(scope="module")
def models(capture: Path) -> tuple[FMGSModel, FMGSModel]:
    """The same avatar on the CPU and on the card: all losses on, a light, and fields that do something."""
    torch.manual_seed(0)  # whatever ran before: where a depth's edge or a class is undecided, rounding shows
    metadata = FMGSDataParserConfig(data=capture).setup().get_dataparser_outputs("train").metadata
    config = FMGSModelConfig(n_vertices=6890, light=LightConfig("sh"))
    there, here = (
        config.setup(scene_box=SceneBox(torch.eye(3)[:2]), num_train_data=3, metadata=metadata) for _ in range(2)
    )
    fit_to_surface(here.skinning, here.surface, 20, torch.Generator().manual_seed(0))
    for name, parameter in here.named_parameters():
        if name.endswith("table"):
            nn.init.uniform_(parameter, -1, 1)
        elif parameter.numel() and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    assert here.light is not None
    here.light.irradiance[1:] = torch.linspace(-0.2, 0.3, 8)[:, None]
    there.load_state_dict(here.state_dict())
    terms = {name: term for name, term in all_terms().items() if name != "L_pose"}  # these fits state no errors
    for model in (here, there):
        model.step, model.objective = 900, Objective.of(terms, LossWeights(), ["depth", "normal", "semantics"])
        model.taught.learn(terms)
        model.set_run_length(1000)
        model.zero_grad()
    with fake_cuda():
        return here, there.to("cuda")


def camera_of(model: FMGSModel, pose_id: int | None = 1) -> Cameras:
    """Of the capture; without a pose, of the viewer."""
    view = model.kwargs["metadata"]["capture"].cameras["Camera_B1"]
    to_world = torch.from_numpy(np.linalg.inv(view.world_to_camera) @ np.diag([1.0, -1, -1, 1])).float()
    metadata = {"cam_idx": 0} if pose_id is None else {"pose_id": torch.tensor([[pose_id]])}
    return Cameras(to_world[None, :3], 90.0, 90.0, 32.0, 32.0, SIZE, SIZE, times=torch.tensor([0.5]), metadata=metadata)


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int) -> Tensor:
        coarse = torch.rand(1, channels, 8, 8, generator=generator)
        return nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")[0].movedim(0, -1).contiguous()

    maps = {"image": smooth(3), "mask": (smooth(1) > 0.3).float(), "bound": smooth(1) > 0.2}
    for kind in ("prior", "truth"):
        normal = nn.functional.normalize(smooth(3) - 0.5, dim=-1)
        semantics = (smooth(1)[..., 0] * 27).long()
        maps |= {f"{kind}_depth": 3 + smooth(1)[..., 0], f"{kind}_normal": normal, f"{kind}_semantics": semantics}
    return maps


def evaluation(model: FMGSModel, folder: Path) -> Numbers:
    maps = model.eval().get_outputs_for_camera(camera_of(model))
    metrics, images = model.get_image_metrics_and_images(maps, batch())
    assert "normal_degrees" in metrics
    return maps | images | {name: torch.tensor(value) for name, value in metrics.items()}


def a_moved_camera(model: FMGSModel, folder: Path) -> Numbers:
    """As the turn-around does."""
    camera = camera_of(model).to(model.device)
    centre, up = model.poses.transl.mean(0), torch.tensor([0.0, 0.0, 1.0], device=model.device)
    return model.eval().get_outputs_for_camera(orbit(camera, centre, up, 0.5))


def viewer(model: FMGSModel, folder: Path) -> Numbers:
    """A posed frame with everything on, and frames of a motion and of joints turned by hand."""
    state, camera = AvatarViewer(model.eval()).state, camera_of(model, None)
    state.parts = Parts(frozenset({3})).with_tint(5, Tint((255, 0, 0), 0.5)).with_tint(9, Tint((0, 255, 0), 1.0))
    state.frame_overlay, state.relighting = FrameOverlay("Camera_B1", 0.5, blend=True), Relighting(turn=90.0)
    compared = model.get_outputs_for_camera(camera)
    state.frame_overlay = FrameOverlay("Camera_B1")
    poses = np.random.default_rng(3).normal(size=(5, 156)) * 0.2
    np.savez(folder / "walk.npz", poses=poses, trans=np.zeros((5, 3)), mocap_framerate=60.0)
    assert state.load_motion(str(folder / "walk.npz")), state.message
    state.show_frame(3)
    walking = model.get_outputs_for_camera(camera)
    state.turn(18, np.array([0.0, -1.5, 0.0]))
    turned = model.get_outputs_for_camera(camera)
    assert not state.message
    model.interactive_renderer = None
    shown = {"compared": compared, "walking": walking, "turned": turned}
    return {f"{name} {key}": value for name, maps in shown.items() for key, value in maps.items()}


def frozen_avatar(model: FMGSModel, folder: Path) -> Numbers:
    avatar = FrozenAvatar(model, clamp_pose=True)
    motion = avatar.own_motion()
    posed = avatar.pose(*model.poses(1))
    rest = avatar.at_rest()
    return {"poses": torch.from_numpy(motion.poses), "Z_p": posed.Z_p, "T": posed.T, "rest": rest.canonical.means}


def splats(model: FMGSModel, folder: Path) -> Numbers:
    posed = FrozenAvatar(model).pose(*model.poses(1))
    seen, baked = baking.look_around(model, posed), baked_splats(model, posed)
    fitted = fit_splats(model, posed, baked, 3)
    psnr = picture_psnr(model, posed, fitted, views=1)
    return {
        **{"rgb": seen.rgb, "sh": baked.sh, "fitted sh": fitted.sh, "psnr": torch.tensor(psnr)},
        **{f"fitted {name}": value for name, value in fitted.surfels._asdict().items()},
    }


def mesh(model: FMGSModel, folder: Path) -> Numbers:
    avatar = FrozenAvatar(model)
    learned = learned_mesh(model, avatar.at_rest())
    posed = learned.posed(model.canonical(*model.poses(1))[1])
    return {"posed": posed, **{name: value for name, value in learned._asdict().items() if name != "parts"}}


def skinning_fit(model: FMGSModel, folder: Path) -> Numbers:
    error = fit_to_surface(model.skinning, model.surface, 2, torch.Generator().manual_seed(1))
    return {"error": torch.tensor(error), "weights": model.skinning(model.surfels.means)}


def speed(model: FMGSModel, folder: Path) -> Numbers:
    frames = model.kwargs["metadata"]["capture"].splits["train"]
    return {"is a number": torch.tensor(frames_per_second(model, frames, 2) > 0).float()}


def animate_command(model: FMGSModel, folder: Path) -> Numbers:
    outputs = ["rgb", "depth", "normal", "surface_normal", "semantics", "accumulation"]
    arguments = [str(folder), "--frames", str(folder / "frames"), "--camera", "orbit", "--fps", "30", "--stop", "0.05"]
    animate.main([*arguments, "--outputs", *outputs])
    paths = sorted((folder / "frames").iterdir())
    assert len(paths) == 2
    return {path.name: torch.from_numpy(cv2.imread(str(path)) / 255) for path in paths}


def export_command(model: FMGSModel, folder: Path) -> Numbers:
    arguments = [str(folder), "--frame", "1", "--splat-steps", "1", "--sh-degree", "0"]
    export.main([*arguments, "--formats", "splats", "glb", "ply"])
    files = sorted((folder / "export").iterdir())
    return {path.suffix + str(len(path.stem)): torch.tensor(float(path.stat().st_size)) for path in files}


def report_at_rest(model: FMGSModel, folder: Path) -> Numbers:
    pictures = {name: np.frombuffer(png, np.uint8) for name, png in _at_rest(model, 64).items()}
    return {name: torch.from_numpy(cv2.imdecode(png, 1) / 255) for name, png in pictures.items()}


def training_step(model: FMGSModel, folder: Path) -> Numbers:
    model.train()
    outputs = model.get_outputs(camera_of(model))
    terms = model.get_loss_dict(outputs, batch())
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name, _ in model.named_parameters()} - set(gradients) == {"device_indicator_param"}
    metrics = model.get_metrics_dict(outputs, batch())
    del outputs["avatar"], outputs["of_surfels"]
    return outputs | terms | metrics | gradients


THINGS = (
    training_step, evaluation, a_moved_camera, viewer, frozen_avatar, splats, mesh, speed, animate_command,
    export_command, report_at_rest, skinning_fit,
)  # fmt: skip


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.__name__)
def test_a_card_gives_the_cpus_numbers(
    models: tuple[FMGSModel, FMGSModel],
    thing: Callable[[FMGSModel, Path], Numbers],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Numbers] = []
    for model in models:
        folder = tmp_path / model.device.type
        folder.mkdir()
        opened = Run(None, model, folder)  # pyright: ignore[reportArgumentType]
        for command in (animate, export):
            monkeypatch.setattr(command, "open_run", lambda run, data, opened=opened: opened)
        found.append(thing(model, folder))
        model.zero_grad()
    expected, got = found
    assert expected.keys() == got.keys()
    worst = {name: relative_error(got[name].detach().cpu(), value.detach()) for name, value in expected.items()}
    assert {name: error for name, error in worst.items() if not error < 1e-3} == {}


def whole_step(model: FMGSModel, pose_id: int = 1, names: Container[str] = batch()) -> Numbers:
    """A step as the pipeline asks for it: on a card, replayed."""
    model.train()
    terms, metrics = model(camera_of(model, pose_id), {name: v for name, v in batch().items() if name in names})
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return terms | {"psnr": metrics["psnr"], "opacity": metrics["opacity"]} | gradients


def test_a_replayed_step_is_the_step(models: tuple[FMGSModel, FMGSModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """With other poses, parameters, maps and phases than those of the recording, to the last bit."""
    _, model = models
    kept = [parameter.detach().clone() for parameter in model.parameters()]

    def restore() -> None:  # in their memory, as an optimiser does
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), kept, strict=True):
                parameter.copy_(value)

    monkeypatch.setattr(model.config, "schedule", Schedule(residual_start=0.5))
    steps = [(0, 900, 1, True), (2, 901, 1, True), (1, 902, 2, True), (1, 300, 1, True), (0, 903, 1, False)]
    found = list[list[Numbers]]()
    for replays in (False, True):
        monkeypatch.setattr(model.config, "cuda_graphs", replays)
        restore()
        made = list[Numbers]()
        for pose_id, step, maps, whole in steps:
            monkeypatch.setattr(model, "step", step)
            model.surfels.requires_grad_(whole)
            names = batch() if maps == 1 else {"image", "mask", "prior_depth"}
            made.append(whole_step(model, pose_id, names))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in made[-1]:
                        parameter -= 1e-3 * made[-1][name].sign()
        found.append(made)
    model.surfels.requires_grad_(True)
    restore()
    for plain, replayed in zip(*found, strict=True):
        nothing = {name for name in replayed if name not in plain}
        assert all(not replayed[name].any() for name in nothing)  # gradients of what a step does not touch
        assert {
            name: relative_error(replayed[name].cpu(), value.cpu()) for name, value in plain.items()
        } == dict.fromkeys(plain, 0.0)


def test_a_replayed_avatar_is_the_avatar(models: tuple[FMGSModel, FMGSModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two poses at once, from two sides, with other opacities, another light, and another cutoff, to the last bit."""
    _, model = models
    found = list[list[Tensor]]()
    for replays in (False, True):
        monkeypatch.setattr(model.config, "cuda_graphs", replays)
        avatar, pictures = FrozenAvatar(model), list[Tensor]()
        views = [Camera.from_nerfstudio(camera_of(model)).to(model.device) for _ in range(2)]
        views[1].viewmat[:3, 3] += 0.1
        with torch.inference_mode():
            posed = [avatar.pose(*model.poses(i)) for i in (0, 1)]
            posed.append(posed[1].with_opacities(posed[1].opacities / 2))
            for each, view in zip([*posed, posed[0]], [*views, *views], strict=True):
                pictures.append(avatar.render(each, view, ["colour", "depth"]).maps["rgb"])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(model.config, "rendering", RenderingConfig(backface_cutoff=-0.5))
                pictures.append(avatar.render(posed[0], views[0], ["colour", "depth"]).maps["rgb"])
            own, model.light = model.light, Light().to(model.device)
            pictures.append(avatar.render(posed[0], views[0], ["colour", "depth"]).maps["rgb"])
            model.light = own
        found.append([*pictures, *(each.T for each in posed), *(each.canonical.means for each in posed)])
    assert [relative_error(a.cpu(), b.cpu()) for a, b in zip(*found, strict=True)] == [0.0] * len(found[0])
    assert relative_error(found[0][4].cpu(), found[0][5].cpu()) > 0.01


def test_training_exposes_its_picture_and_evaluation_does_not(models: tuple[FMGSModel, FMGSModel]) -> None:
    """By the factors of the picture's own pose; on both devices, replayed too."""
    for model in models:
        assert model.exposure is not None
        seen = [camera_of(model, pose_id) for pose_id in (1, 2)]
        steady = [model.train().get_outputs(view)["rgb"].detach().cpu() for view in seen]
        covered = [model.get_outputs(view)["accumulation"].detach().cpu() for view in seen]
        shown = model.eval().get_outputs_for_camera(seen[0])["rgb"].cpu()
        before = whole_step(model)["L_c"].cpu()
        factors = torch.tensor([0.5, 0.75, 1.0])
        model.exposure.set({1: factors.numpy(), 2: np.ones(3)})
        try:
            dim = [model.train().get_outputs(view)["rgb"].detach().cpu() for view in seen]
            background = model.background.cpu()
            expected = steady[0] * factors + (1 - covered[0]) * background * (1 - factors)
            assert relative_error(dim[0], expected) < 1e-5
            assert relative_error(dim[1], steady[1]) < 1e-6
            assert abs(whole_step(model)["L_c"].cpu() - before) > 1e-3
            assert relative_error(model.eval().get_outputs_for_camera(seen[0])["rgb"].cpu(), shown) < 1e-6
        finally:
            model.exposure.factors.fill_(1)


def test_what_cannot_be_recorded_runs_itself(
    models: tuple[FMGSModel, FMGSModel], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = models
    waiting = Term(lambda x: x.outputs["rgb"].sum() * float(x.batch["mask"].mean()), ("colour",), weight=0.5)
    objective = Objective({**model.objective.terms, "L_mine": waiting}, model.objective.weights)
    monkeypatch.setattr(model, "pixel_graphs", Recorder(8, keeps=True))
    monkeypatch.setattr(model, "objective", objective)
    monkeypatch.setattr(model.config, "cuda_graphs", False)
    plain = whole_step(model)
    monkeypatch.setattr(model.config, "cuda_graphs", True)
    for _ in range(2):
        replayed = whole_step(model)
        assert relative_error(replayed["L_mine"].cpu(), plain["L_mine"].cpu()) == 0
    assert " ".join(capsys.readouterr().out.split()).count("runs without CUDA graphs") == 1


@pytest.mark.usefixtures("kernels_on_the_card")
def test_a_step_does_not_wait(models: tuple[FMGSModel, FMGSModel]) -> None:
    """The host may run ahead of the card, and launches little: all losses and a light, beside gsplat's own kernels."""
    model = models[1]
    whole_step(model)
    with counted() as counts:
        whole_step(model)
    assert counts.waits == {}
    assert sum(counts.operations.values()) <= 200, counts.operations


def relative_error(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    return float((value - expected).double().norm() / expected.double().norm().clamp_min(1e-12))


def test_a_card_trains_on_pictures_of_one_size(capture: Path, tmp_path: Path) -> None:
    """That of the largest crop: steps of one size are recorded once."""
    root = tmp_path / "CoreView_2"
    shutil.copytree(capture, root)
    path = sorted((root / "mask_cihp").glob("*/*.png"))[0]
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[: len(mask) // 2] = 0
    cv2.imwrite(str(path), mask)
    sizes = dict[str, list[tuple[int, ...]]]()
    for device in ("cpu", "cuda"):
        made = config_for(root, tmp_path / device, 1)
        made.machine.device_type = device
        made.pipeline.datamanager.crop_margin = 0.05
        trainer = made.setup()
        trainer.setup()
        data = trainer.pipeline.datamanager
        sizes[device] = [tuple(data.next_train(step)[1]["image"].shape[:2]) for step in range(3)]
    heights, widths = zip(*sizes["cpu"], strict=True)
    assert set(sizes["cuda"]) == {(max(heights), max(widths))}
    assert len(set(sizes["cpu"])) > 1


@pytest.mark.parametrize("thing", [evaluation, viewer, frozen_avatar, speed], ids=lambda t: t.__name__)
def test_no_product_is_tf32(models: tuple[FMGSModel, FMGSModel], thing: Any, tmp_path: Path) -> None:
    """Whatever torch's flag says, which is as it was afterwards."""
    model = models[1]
    torch.set_float32_matmul_precision("medium")
    try:
        with counted() as counts:
            torch.ones(2, 2, device="cuda").mm(torch.ones(2, 2, device="cuda"))
            thing(model, tmp_path)
        assert counts.maybe_tf32 == {"aten.mm": 1}  # the first
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("replays", [True, False])
def test_no_product_of_a_training_is_tf32(capture: Path, tmp_path: Path, replays: bool) -> None:
    """Backward passes included."""
    made = config_for(capture, tmp_path, 2)
    made.machine.device_type, made.pipeline.model.cuda_graphs = "cuda", replays
    torch.set_float32_matmul_precision("medium")
    try:
        with counted() as counts:
            train(made)
        assert counts.operations["aten.mm"] > 0
        assert counts.maybe_tf32 == {}
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_run_on_a_card(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, saved, resumed, evaluated, opened again with the device that nerfstudio finds, and on the CPU."""
    made = config_for(capture, tmp_path, 2)
    made.machine.device_type = "cuda"
    model = train(made).pipeline.model
    assert isinstance(model, FMGSModel)
    assert model.surfels.means.is_cuda
    resumed = config_for(capture, tmp_path / "resumed", 1, load=made.get_checkpoint_dir())
    resumed.machine.device_type = "cuda"
    train(resumed)
    made.save_config()
    on_cpu = open_run(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_card = open_run(tmp_path)
    assert (on_cpu.model.device.type, on_card.model.device.type) == ("cpu", "cuda")
    assert on_card.pipeline.get_average_eval_image_metrics()["psnr"] > 0
    assert held_out_sheet(on_card.pipeline, 1).any()
    assert next(iter(turnaround(on_card.pipeline))).any()


def kernel_on_the_card(name: str) -> Callable[..., object]:
    """In place of a compiled kernel of gsplat: it asks where its tensors are, and gives some of the right shape."""

    @uncounted()
    def kernel(*args: Any) -> object:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        assert all(tensor.is_cuda for tensor in tensors), name
        if name == "isect_tiles":
            surfels = torch.arange(args[0].shape[1], device="cuda")
            return args[1], surfels, surfels.int()
        if name == "isect_offset_encode":
            return torch.zeros(1, args[3], args[2], dtype=torch.int32, device="cuda")
        if name == "rasterize_to_pixels_fwd_2dgs":
            image = args[2].mean((0, 1)) * args[2].new_ones(1, args[8], args[7], args[2].shape[-1])
            return image, *(image[..., :1] for _ in range(6))
        assert name == "rasterize_to_pixels_bwd_2dgs"
        return None, *(torch.ones_like(args[i]) for i in range(6))

    return kernel


@pytest.fixture
def kernels_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (f"{name}_2dgs" for name in ("rasterize_to_pixels_fwd", "rasterize_to_pixels_bwd"))
    kernels = {name: kernel_on_the_card(name) for name in ("isect_tiles", "isect_offset_encode", *names)}
    install_backend(monkeypatch, SimpleNamespace(**kernels))
    monkeypatch.setitem(_OF_SURFELS, "cuda", cuda.rasterize_cuda)


@pytest.mark.usefixtures("kernels_on_the_card")
def test_gsplats_kernels_get_tensors_of_the_card() -> None:
    """Layers as a step has them, three geometries with a gradient: few operations beside the kernels."""
    layers = [
        Layer(*(torch.rand(5, *shape).to("cuda").requires_grad_(i < 3) for shape in ((3,), (3, 2), (), (channels,))))
        for i, channels in enumerate((4, 2, 3, 28))
    ]
    viewmat, K = torch.eye(4, device="cuda"), torch.eye(3, device="cuda")
    with counted() as counts:
        images = cuda.rasterize_cuda(layers, Camera(viewmat, K, 20, 18), 2)
        gradients = torch.autograd.grad(images, [x for layer in layers[:3] for x in layer], images)
    assert not counts.waits  # but gsplat's own
    assert sum(counts.operations.values()) <= 69, counts.operations
    assert [image.shape[-1] for image in images] == [4, 2, 3, 28]
    assert all(image.shape[:2] == (18, 20) for image in images)
    assert all(gradient.is_cuda for gradient in gradients)


def test_3d_gaussians(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything around their renderer, which draws surfels here."""

    def draw(layers: Sequence[Layer], camera: Camera) -> list[Tensor]:
        return rasterize_held([layer._replace(tangents=layer.tangents[..., :2]) for layer in layers], camera)

    monkeypatch.setitem(_OF_GAUSSIANS, "cuda", draw)
    monkeypatch.setattr(surfels, "check_kind", lambda config, on_card: None)
    made = config_for(capture, tmp_path, 1)
    made.pipeline.model.surfels, made.machine.device_type = SurfelsConfig(guided=False, kind="3d"), "cuda"
    model = train(made).pipeline.model
    assert isinstance(model, FMGSModel)
    posed = FrozenAvatar(model).pose(*model.poses(1))
    fitted = fit_splats(model, posed, baked_splats(model, posed), 1)
    assert fitted.surfels.tangents.is_cuda


MIXED: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: x + torch.ones(3),
    "a number on the card": lambda x: torch.ones(3) * x.sum(),
    "an index to select by": lambda x: x.index_select(0, torch.tensor([0])),
    "an index on the card": lambda x: torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")],
    "a product": lambda x: x @ torch.ones(3, 2),
    "numbers side by side": lambda x: torch.stack([x.sum(), torch.ones(())]),
    "a result": lambda x: torch.ones(()).add_(x.sum()),
    "a generator": lambda x: torch.rand(3, generator=torch.Generator(), device="cuda"),
    "in place": lambda x: x.normal_(generator=torch.Generator()),
}
WAITS: dict[str, Callable[[Tensor], object]] = {
    "a value": lambda x: float(x[0, 0]),
    "a condition": lambda x: bool((x > 0).all()),
    "a size": lambda x: x.nonzero(),
    "by a mask": lambda x: x[x > 0],
    "by a list": lambda x: x[[0, 1]],
    "by an index of the host": lambda x: x[torch.tensor([0])],
    "a copy": lambda x: torch.ones(3).to("cuda"),
    "a copy back": lambda x: x.cpu(),
    "a constant": lambda x: x.new_tensor([1.0, 2.0]),
    "a list": lambda x: torch.tensor([1.0, 2.0], device="cuda"),
}
RUNS_AHEAD: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: 2 * x + 1,
    "a view": lambda x: x[1:, 0].view(-1),
    "by an index of the card": lambda x: x.index_select(0, torch.arange(2, device="cuda")),
    "a copy that does not block": lambda x: torch.ones(3).to("cuda", non_blocking=True),
    "new memory": lambda x: x.new_zeros(3),
    "a choice": lambda x: torch.where(x > 0, x, 0.0),
}


@pytest.mark.parametrize("thing", [*WAITS, *RUNS_AHEAD])
def test_the_pretence_counts_waits(thing: str) -> None:
    x = torch.ones(4, 3).to("cuda")
    with counted() as counts:
        (WAITS | RUNS_AHEAD)[thing](x)
    assert sum(counts.waits.values()) == (thing in WAITS)
    assert sum(counts.operations.values()) == 0 if thing == "a view" else sum(counts.operations.values()) > 0


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_the_pretence_refuses_what_cuda_refuses(mix: Callable[[Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="Expected"):
        mix(torch.ones(4, 3).to("cuda"))


def test_the_pretence_admits_what_cuda_admits() -> None:
    x = torch.arange(12.0, device="cuda").view(4, 3)
    assert x.is_cuda
    assert x[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
    assert (x * torch.tensor(2.0)).device == x.device
    x[0] = torch.ones(3)
    assert x.cpu()[0].numpy().tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
