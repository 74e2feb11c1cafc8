"""FMGS-Avatar as a nerfstudio model: reads like Fig. 1 of the paper; the arithmetic is in the parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from fmgs_dataparsers.capture import Capture
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import comms
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import mse_loss

from fmgs_nerfstudio.avatar import Avatar, DistilledFields, Skinned
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.body.pose_table import PoseTable
from fmgs_nerfstudio.body.template import upsample
from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.fields.appearance import AppearanceField, AppearanceFieldConfig, canonical_direction
from fmgs_nerfstudio.fields.exposure import Exposure
from fmgs_nerfstudio.fields.geometry import GeometryField, GeometryFieldConfig
from fmgs_nerfstudio.fields.hash_grid import HashGridConfig
from fmgs_nerfstudio.fields.light import Light, LightConfig
from fmgs_nerfstudio.fields.pose_encoder import PoseEncoder, PoseEncoderConfig
from fmgs_nerfstudio.fields.skinning import SkinningField, SkinningFieldConfig, SurfaceWeights, blend, fit_to_surface
from fmgs_nerfstudio.fields.volumes import FeatureVolume
from fmgs_nerfstudio.fit_errors import PoseSigma, expected_errors, sigma_of
from fmgs_nerfstudio.judge.prior_maps import priors_at_hand, share_of_priors
from fmgs_nerfstudio.kernels.constants import constant
from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.kernels.threads import one_torch_thread
from fmgs_nerfstudio.maps.maps import Kind
from fmgs_nerfstudio.metrics.image import image_metrics
from fmgs_nerfstudio.metrics.lpips import available_lpips
from fmgs_nerfstudio.modalities import (
    MODALITIES,
    Maps,
    Pictures,
    RenderingConfig,
    all_terms,
    compose_outputs,
    layers_of,
    render_modalities,
    visualize_outputs,
)
from fmgs_nerfstudio.objective import DEPTH_PAIRS, LossInputs, LossWeights, Objective, SurfelInputs
from fmgs_nerfstudio.parameters import Parameters, trained_parts
from fmgs_nerfstudio.patches import Patch, Patches
from fmgs_nerfstudio.recorded import Recorder
from fmgs_nerfstudio.recorded_step import Made, StepInputs
from fmgs_nerfstudio.rendering import Camera, outward, rasterize_finer
from fmgs_nerfstudio.routes import OPEN, Strategy
from fmgs_nerfstudio.schedule import Schedule
from fmgs_nerfstudio.surfels import MeshSurfels, SurfelsConfig, correct
from fmgs_nerfstudio.taught import Taught


@dataclass
class FMGSModelConfig(ModelConfig):
    """FMGS-Avatar. Defaults are the paper's where it gives them, else 3DGS-Avatar's, else measured on the demo."""

    _target: type = field(default_factory=lambda: FMGSModel)
    n_vertices: int | None = None
    """Vertices of the template, about half the number of surfels. Default: chosen from the person's size in pixels."""
    surfels: SurfelsConfig = field(default_factory=SurfelsConfig)
    """Mesh-bound surfels."""
    volume: HashGridConfig = field(default_factory=HashGridConfig)
    """Hash grid of each feature volume (V_g, V_c, V_s)."""
    pose_encoder: PoseEncoderConfig = field(default_factory=PoseEncoderConfig)
    """Pose encoder."""
    geometry: GeometryFieldConfig = field(default_factory=GeometryFieldConfig)
    """Geometry residual field."""
    appearance: AppearanceFieldConfig = field(default_factory=AppearanceFieldConfig)
    """Appearance field."""
    light: LightConfig = field(default_factory=LightConfig)
    """World-space light, beyond the paper."""
    skinning: SkinningFieldConfig = field(default_factory=SkinningFieldConfig)
    """Skinning field."""
    rendering: RenderingConfig = field(default_factory=RenderingConfig)
    """Rendering."""
    schedule: Schedule = field(default_factory=Schedule)
    """What starts when, as fractions of the run."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the losses (Eq. 21)."""
    coordinated: bool = True
    """Let each modality move only its own parameters (section 4.5). Off: every loss moves everything."""
    priors_move_opacity: bool = True
    """Let depth and normal losses move opacities too; section 4.5 blocks only positions and rotations."""
    refine_poses: bool | None = None
    """Learn a correction of every training pose. Default: as the protocol does, off on PeopleSnapshot, else on."""
    pose_sigma: PoseSigma = "stated"
    """How far fits are off: as stated by the capture, none, or joint, right, down, along, lean, distance (rad, m)."""
    pose_radius: int = 8
    """Training frames on each side that share the correction of a pose. 0 corrects every frame on its own."""
    cuda_graphs: bool = True
    """On a card, replay shown frames, and on one also training steps, as CUDA graphs, all but the rasteriser."""
    seed: int = 0
    """Seed of random draws in training. They depend on seed and step alone, so a resumed run repeats them."""
    lpips_backbones: Path | None = None
    """Folder or file of LPIPS backbones (vgg16-397923af.pth, alexnet-owt-7be5be79.pth). Default: torch's hub cache."""
    # What nerfstudio's rays need and a rasteriser does not.
    enable_collider: tyro.conf.Suppress[bool] = False
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 0
    prompt: tyro.conf.Suppress[str | None] = None


class FMGSModel(Model):
    """Mesh-guided surfels, feature volumes, fields, forward LBS, and the rendering of all modalities."""

    config: FMGSModelConfig

    def populate_modules(self) -> None:
        """Build the avatar for the person of `metadata["capture"]` (see `fmgs_dataparsers.capture.Capture`)."""
        super().populate_modules()
        config, capture = self.config, self.kwargs["metadata"]["capture"]
        self.step = 0
        self.canonical = CanonicalBody(BodyModel.load(capture.body_model), torch.from_numpy(capture.betas).float())
        body, joints = self.canonical.body, self.canonical.joints
        template = upsample(
            self.canonical.vertices,
            body.faces,
            body.weights,
            config.n_vertices or default_n_vertices(capture.person_pixels),
        )
        log(f"Template: {len(template.vertices):,} vertices, {len(template.faces):,} surfels")
        self.template = template
        self.surface = SurfaceWeights(template.vertices, template.faces, template.weights)
        self.surfels = MeshSurfels(config.surfels, template.vertices, template.faces)
        margin = 0.1  # metres; displaced surfels stay inside
        aabb = torch.stack([template.vertices.amin(0) - margin, template.vertices.amax(0) + margin])

        def volume(name: str) -> FeatureVolume:
            return FeatureVolume(self.surfels.means, aabb, config.volume, name)

        self.V_g, self.V_c = volume("V_g"), volume("V_c")
        feature_dim, latent_dim = config.volume.channels, config.pose_encoder.latent_dim
        sigma = sigma_of(config.pose_sigma, capture)
        self.poses = PoseTable(
            torch.from_numpy(capture.poses).float(),
            torch.from_numpy(capture.transl).float(),
            trained=(frame.pose_id for frame in capture.splits["train"]),
            refine=refines_poses(capture) if config.refine_poses is None else config.refine_poses,
            radius=config.pose_radius,
            errors=expected_errors(capture, sigma, joints[0]) if sigma else None,
        )
        self.pose_start = config.schedule.pose_start_for(sigma.rotation if sigma else 0.0)
        self.clip_start = config.schedule.clip_start_for(sigma.distance if sigma else 0.0)
        log(
            f"Poses are refined after {self.pose_start:.0%} of the run"
            if self.poses.corrections
            else "Poses stay as they are given"
        )
        self.pose_encoder = PoseEncoder(config.pose_encoder, body.parents, joints)
        n_scales = self.surfels.scales.shape[1]
        self.geometry = GeometryField(config.geometry, feature_dim, latent_dim, self.surfels.guided, n_scales)
        self.appearance = AppearanceField(config.appearance, feature_dim, config.geometry.z_dim, latent_dim)
        self.distilled = DistilledFields(
            {name: (volume(f"V_{name}"), m.decoder(feature_dim)) for name, m in MODALITIES.items() if m.decoder}
        )
        self.light = Light() if config.light.kind == "sh" else None
        self.exposure = Exposure(len(self.poses.pose)) if self.light and config.light.exposures else None
        self.skinning = SkinningField(config.skinning, aabb, N_JOINTS)
        # Kept in the checkpoint, so that a resumed run goes on with the schedule it began with; and as a number, since
        # reading a buffer waits for the card.
        self.register_buffer("run_length", torch.tensor(0))
        self.set_run_length(config.schedule.steps or 0)
        self.register_load_state_dict_post_hook(lambda model, _: model.set_run_length(int(model.run_length)))
        self.register_buffer("background", torch.tensor(self.kwargs["metadata"]["background"]), persistent=False)
        terms = {name: term for name, term in all_terms().items() if self.poses.clip is not None or name != "L_pose"}
        self.objective = Objective.of(terms, config.weights, self._priors(capture))
        self.taught = Taught(self.objective.terms.keys())
        self.patches = Patches(self.surfels.means)
        self.surfel_graphs, self.pixel_graphs = Recorder(1), Recorder(8, keeps=True)

    run_length: Tensor
    background: Tensor
    interactive_renderer: Callable[[Cameras], Pictures] | None = None
    """Who renders cameras that name no pose of the capture; none: the model, in the pose of the camera's time."""

    @property
    def strategy(self) -> Strategy:
        """How losses are kept apart (4.5)."""
        return Strategy(self.config.coordinated, self.config.priors_move_opacity)

    # --- one training step, top to bottom ---------------------------------------------------------------------------

    def forward(self, ray_bundle: Cameras, batch: dict[str, Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As the host's; with a batch, losses and metrics in place of maps: what DistributedDataParallel sees leave the
        model must be what is differentiated."""
        if batch is not None and self._replays:
            return self._replayed_step(ray_bundle, batch)
        outputs = super().forward(ray_bundle)
        if batch is None:
            return outputs
        metrics = self.get_metrics_dict(outputs, batch)
        return self.get_loss_dict(outputs, batch, metrics), metrics

    @one_torch_thread()
    def get_outputs(self, camera: Cameras) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Render one camera (nerfstudio's `Cameras` of shape [1]); see `compose_outputs` for the maps."""
        view = Camera.from_nerfstudio(camera).to(self.device)
        if not self.training:
            avatar, names = self.pose_avatar_at(*self._pose_for(camera)), self.taught.shown
            outputs = self.render(avatar, self.shade(avatar, self._centre(camera)), view, names)
            return visualize_outputs(outputs, names)
        made = self._make(self._inputs_for(camera, view.viewmat))
        outputs = compose_outputs(self._composited(made, view), view, self.background)
        return outputs | self._corrections(camera) | {"avatar": made.avatar, "of_surfels": made.terms}

    def _composited(self, made: Made, view: Camera) -> Maps:
        """By the names of the modalities that training needs."""
        images = rasterize_finer(made.layers, view, self.config.rendering.supersampling)
        return dict(zip(self.objective.modalities, images, strict=True))

    def _corrections(self, camera: Cameras) -> dict[str, Tensor]:
        """What corrects this frame's pose, where there is a prior on it."""
        if self.poses.clip is None:
            return {}
        of_frame, of_clip = self.poses.corrections_of(self.pose_id(camera))
        return {"of_frame": of_frame, "of_clip": of_clip}

    def _pose_for(self, camera: Cameras) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
        """That which the camera carries (`held_out_poses.refined_views`), else the capture's that it names."""
        if camera.metadata and "pose" in camera.metadata:
            return camera.metadata["pose"][0], camera.metadata["transl"][0]
        return self.pose_now(self.pose_id(camera))

    def _centre(self, camera: Cameras) -> Float[Tensor, "3"]:
        return self._on_device(camera.camera_to_worlds[0, :, 3])

    def _inputs_for(self, camera: Cameras, viewmat: Float[Tensor, "4 4"]) -> StepInputs:
        """What `_make` is told of a training step with this camera."""
        one = constant((1.0,), viewmat.dtype, self.device)
        gain = one if self.exposure is None else self.exposure(self.pose_id(camera))
        patch = self.patches.draw(self._generator("patch"))
        pose, centre = self._pose_for(camera), self._centre(camera)
        return StepInputs(*pose, viewmat, centre, gain, *self._surface_points(), *patch)

    def _make(self, given: StepInputs) -> Made:
        """What a training step makes of its surfels before a pixel is drawn."""
        avatar = self._posed_with(given.pose, given.transl, given.points, given.weights)
        rgb = self.shade(avatar, given.centre) * given.gain
        view = Camera(given.viewmat, torch.empty(0), 0, 0)  # its pixels come later
        layers = layers_of(avatar, rgb, view, self.objective.modalities, self.config.rendering, self.strategy)
        patch = Patch(given.rows, given.neighbours, given.scale)
        return Made(avatar, layers, self.objective.of_surfels(SurfelInputs(avatar, self.surfels(), patch)))

    def pose_avatar(self, pose_id: int) -> Avatar:
        """The avatar in a pose of the capture, refined as far as training refines poses by now."""
        return self.pose_avatar_at(*self.pose_now(pose_id))

    def pose_now(self, pose_id: int) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
        """A pose (radians) and translation (metres) of the capture, as `pose_avatar` has it."""
        return self.poses(pose_id, *self._refines())

    def poses_now(self) -> tuple[Float[Tensor, "P 72"], Float[Tensor, "P 3"]]:
        """All poses of the capture, as `pose_now` has them."""
        return self.poses.all(*self._refines())

    @full_precision()
    def pose_avatar_at(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Avatar:
        """Canonical surfels, corrected for the pose, and their way to the observed world (Fig. 1, a to c).

        Axis-angle pose in radians and translation in metres, in smplx's sense, in the capture's world.
        """
        return self._posed_with(pose, transl, *self._surface_points())

    def _posed_with(
        self,
        pose: Float[Tensor, "72"],
        transl: Float[Tensor, "3"],
        points: Float[Tensor, "P 3"],
        weights: Float[Tensor, "P 24"],
    ) -> Avatar:
        bones, B = self.canonical(pose, transl)
        Z_p = self.pose_encoder(bones, self.canonical.joints)
        residual = self.geometry(self.V_g(), Z_p)
        surfels = self.surfels()
        if self._corrects:
            surfels = correct(surfels, residual.delta_d, residual.delta_s, residual.delta_r)
        # In one pass with the surfels: half of the launches of two.
        W, predicted = self.skinning(torch.cat([surfels.means, points])).split([len(surfels.means), len(points)])
        T, skinned = blend(W, B), Skinned(predicted, weights)
        return Avatar(surfels, T, self.surfels.opacities, self.V_c(), residual.z_g, Z_p, self.distilled(), skinned)

    @full_precision()
    def shade(
        self, avatar: Avatar, camera_centre: Float[Tensor, "3"], light: Light | None = None
    ) -> Float[Tensor, "N 3"]:
        """RGB of every surfel as this camera sees it (Eq. 7), under the avatar's light, if it has one, or another."""
        posed = avatar.posed.by(OPEN)
        d_hat = canonical_direction(avatar.T, posed.means - camera_centre)
        colour = self.appearance(avatar.f_c, avatar.z_g, avatar.Z_p, d_hat)
        if (light := light or self.light) is None:
            return colour
        normals = outward(posed.tangents)
        return colour * light(normals if self.config.light.moves_normals else normals.detach())

    @full_precision()
    def render(self, avatar: Avatar, rgb: Float[Tensor, "N 3"], camera: Camera, names: Iterable[str]) -> Maps:
        """Maps of the modalities asked for, the colour's among them (`compose_outputs`)."""
        config = self.config
        rendered = render_modalities(avatar, rgb, camera, names, config.rendering, self.strategy)
        return compose_outputs(rendered, camera, self.background)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms of Eq. 21, by the paper's names."""
        step = LossInputs(
            outputs,
            self._maps_of(batch),
            self._on_device(self._draws()),
            self.config.weights.lambda_ssim,
        )
        terms = self.objective.of_pixels(step) | outputs["of_surfels"]
        return self.objective.weighted(terms, batch, self._progress())

    @property
    def _replays(self) -> bool:
        """Whether this training step is replayed."""
        on_one_card = self.device.type == "cuda" and comms.get_world_size() == 1
        return self.config.cuda_graphs and on_one_card and self.training and torch.is_grad_enabled()

    @one_torch_thread()
    def _replayed_step(self, camera: Cameras, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`get_loss_dict` and `get_metrics_dict` of `get_outputs`, all of it but the rasteriser as CUDA graphs."""
        view = Camera.from_nerfstudio(camera).to(self.device)
        given = self._inputs_for(camera, view.viewmat)
        read = [part for part in self.children() if part not in (self.poses, self.exposure)]
        parameters = [parameter for part in read for parameter in part.parameters()]
        terms, names = tuple(self.objective.terms), self.objective.modalities
        of_surfels = [name for name in terms if self.objective.terms[name].of_surfels]

        def surfels(*given: Tensor) -> list[Tensor]:
            return self._make(StepInputs(*given)).tensors()

        tensors = self.surfel_graphs(surfels, given, (self._corrects, terms), parameters)
        made = Made.of_tensors(tensors, given.weights, list(self.distilled.volumes), len(names), of_surfels)
        images = self._composited(made, view).values()
        maps = self._maps_of(batch) | self._corrections(camera) | {"K": view.K, "viewmat": view.viewmat}
        of_pixels = [name for name in self.objective.active(batch) if name not in of_surfels]

        def pixels(draws: Tensor, *tensors: Tensor) -> list[Tensor]:
            images, batch = tensors[: len(names)], dict(zip(maps, tensors[len(names) :], strict=True))
            seen = Camera(batch["viewmat"], batch["K"], view.width, view.height)
            outputs = compose_outputs(dict(zip(names, images, strict=True)), seen, self.background)
            step = LossInputs(outputs | batch, batch, draws, self.config.weights.lambda_ssim)
            found = self.objective.of_pixels(step)
            assert list(found) == of_pixels
            return [mse_loss(outputs["rgb"].detach(), batch["image"]), *found.values()]

        draws = self._on_device(self._draws())
        mse, *losses = self.pixel_graphs(pixels, [draws, *images, *maps.values()], (terms, *maps), ())
        found = dict(zip(of_pixels, losses, strict=True)) | made.terms
        return self.objective.weighted(found, batch, self._progress()), self._metrics(mse, made.avatar)

    def _maps_of(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {name: self._on_device(value) for name, value in batch.items() if isinstance(value, Tensor)}

    def _draws(self) -> Float[Tensor, "P 2"]:
        """For the pairs of pixels of L_d in this step."""
        return torch.rand(DEPTH_PAIRS, 2, generator=self._generator("pairs"))

    # --- the rest of nerfstudio's interface ---------------------------------------------------------------------------

    def trained(self) -> list[Parameters]:
        """All that training may move, part by part."""
        return trained_parts(self.children())

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Parameters by optimiser; the names are those of `method.py`."""
        groups: dict[str, list[Parameter]] = {}
        for part in self.trained():
            groups.setdefault(part.optimizer, []).extend(part.tensors)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Keep the step; before the first, learn the length of the run and fit the skinning field to the body."""
        trainer = training_callback_attributes.trainer
        self.taught.learn(self.objective.terms.keys())
        self.taught.tell()

        def begin(step: int) -> None:
            if self.run_steps == 0 and trainer is not None:
                self.set_run_length(trainer.config.max_num_iterations)
            log("Fitting the skinning field to the body's weights ...")
            error = fit_to_surface(
                self.skinning, self.surface, self.config.schedule.skinning_fit_steps, self._generator("fit")
            )
            log(f"Skinning weights are off by {error:.4f} (rms)")

        def keep(step: int) -> None:
            self.step = step
            if self._starts(self.clip_start):
                self.poses.let_common()
            self.surfels.requires_grad_(self._started(self.config.schedule.surfels_start))

        before = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION
        return [
            TrainingCallback([before], keep, update_every_num_iters=1),
            TrainingCallback([before], begin, iters=(0,)),
        ]

    def update_to_step(self, step: int) -> None:
        """A checkpoint of this step was loaded: the schedule goes on from there."""
        self.step = step

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render every map for evaluation and viewer. The avatar is one object: a crop box has nothing to cut.

        Cameras of the capture name their pose; those of a viewer see what people have asked for in its panel.
        """
        camera = camera.to(self.device)
        of_capture = bool(camera.metadata) and "pose_id" in camera.metadata
        if self.interactive_renderer is None or of_capture:
            return self.get_outputs(camera)
        return self.interactive_renderer(camera)

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Training metrics and the weights of the losses, for the log."""
        return self._metrics(mse_loss(outputs["rgb"].detach(), self._on_device(batch["image"])), outputs["avatar"])

    def _metrics(self, mse: Float[Tensor, ""], avatar: Avatar) -> dict[str, Tensor]:
        weights = {f"weight/{name}": self.objective.weight(name, self._progress()) for name in self.objective.terms}
        logged = {name: torch.tensor(weight) for name, weight in weights.items()}
        return {"psnr": -10 * mse.log10(), "opacity": avatar.opacities.detach().mean(), **logged}

    @full_precision()
    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of one held-out image, and the images that ns-eval saves."""
        metadata = self.kwargs["metadata"]
        assert isinstance(outputs, Pictures)
        metrics = image_metrics(
            outputs.maps,
            {key: value for key, value in batch.items() if isinstance(value, Tensor)},
            metadata["capture"].protocol,
            metadata["background"],
            available_lpips(self.config.lpips_backbones, self.device),
        )
        rgb, truth = outputs["rgb"].clamp(0, 1), batch["image"].to(self.device)
        maps = [outputs[name] for name in ("normal", "surface_normal", "semantics") if name in outputs]
        return metrics, {"img": torch.cat([truth, rgb], 1), "maps": torch.cat(maps, 1)}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's, always strict: nerfstudio would fall back to loading half of a checkpoint without a word."""
        try:
            loaded = super().load_state_dict(self.taught.complete(state_dict, "taught."), strict=True, assign=assign)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint does not fit this configuration or capture: {error}") from error
        self.taught.tell()
        return loaded

    def pose_id(self, camera: Cameras) -> int:
        """The pose that a camera asks for: its own, else by time (the viewer's slider), else the first."""
        if camera.metadata and "pose_id" in camera.metadata:
            return int(camera.metadata["pose_id"].flatten()[0])
        if camera.times is not None:
            last = len(self.poses.pose) - 1
            return round(min(max(float(camera.times.flatten()[0]), 0.0), 1.0) * last)
        return 0

    def _priors(self, capture: Capture) -> frozenset[Kind]:
        """Kinds of prior maps that training frames have; says how many do, and what training does without."""
        counts, total = priors_at_hand(capture), len(capture.splits["train"])
        told = f"Prior maps: {share_of_priors(capture)}"
        if missing := [name for name, term in all_terms().items() if term.prior and not counts.get(term.prior)]:
            told += f"; training goes on without {', '.join(missing)}"
        if any(0 < count < total for count in counts.values()):
            told += "; a frame without a map trains without its losses"
        log(told)
        return frozenset(kind for kind, count in counts.items() if count)

    def set_run_length(self, steps: int) -> None:
        """Steps that the schedule's fractions refer to."""
        self.run_steps = steps
        self.run_length.fill_(steps)

    def _surface_points(self) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 24"]]:
        """Where a training step looks at skinning weights, and SMPL's there."""
        points, weights = self.surface.sample(1024 if self.training else 0, self._generator("skin"))
        return self._on_device(points), self._on_device(weights)

    def _on_device(self, value: Tensor) -> Tensor:
        return value.to(self.device, non_blocking=True)

    def _progress(self) -> float:
        return self.step / max(self.run_steps, 1)

    @property
    def _corrects(self) -> bool:
        """Whether the geometry field moves surfels by now."""
        return not self.training or self._started(self.config.schedule.residual_start)

    def _started(self, fraction: float) -> bool:
        return self._progress() >= fraction

    def _refines(self) -> tuple[bool, bool]:
        """Whether poses are refined by now, and what they have in common."""
        untrained = self.run_steps == 0 and not self.training
        return untrained or self._started(self.pose_start), untrained or self._started(self.clip_start)

    def _starts(self, fraction: float) -> bool:
        """Whether this step is the first of a phase."""
        return self._started(fraction) and (self.step - 1) / max(self.run_steps, 1) < fraction

    def _generator(self, purpose: str) -> torch.Generator:
        """Random numbers that depend on seed, step and purpose alone."""
        return torch.Generator().manual_seed(hash((self.config.seed, self.step, *purpose.encode())) % 2**63)


def default_n_vertices(person_pixels: int) -> int:
    """About two surfels per pixel of the person, between SMPL's own 6,890 vertices and the paper's 30,000.

    A surfel below one pixel learns no shape: the screen-space low-pass hides it.
    """
    return min(max(person_pixels, 6_890), 30_000)


def refines_poses(capture: Capture) -> bool:
    """Whether poses are to be refined: not on PeopleSnapshot, whose poses AnimNeRF optimised (5.1), and not where they
    are known."""
    return capture.protocol != "instantavatar" and not capture.exact_poses
