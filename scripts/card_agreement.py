"""Sections of the card check: values and gradients on the card against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from card_setup import Bench, Results, relative
from torch import Tensor

from fmgs_nerfstudio.fields.hash_grid import encode, encode_reference, interpolate_reference
from fmgs_nerfstudio.fields.light import LightConfig
from fmgs_nerfstudio.kernels.isometry import distance_change, distance_change_reference
from fmgs_nerfstudio.kernels.ssim import ssim, ssim_reference
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.rendering import Camera, Executor, Layer, rasterize, rasterize_finer
from fmgs_nerfstudio.routes import OPEN, ROUTES, PosedSurfels

# Chosen, not measured: rounding is 1e-6, and gsplat's atomics add gradients in any order.
VALUES, GRADIENTS = 1e-3, 5e-3
GRADIENTS_OF_STEP = 1e-2
"""Parameters that are half of their last digit off move a step's gradients by up to 5e-3 on a CPU, too (skinning, by
L_tv and L_d: of kinks that rounding decides)."""
CHANNELS = (1, 2, 3, 4, 5, 16, 28, 33, 64, 70)
_OF_LAYER = ("image", "means", "tangents", "opacities", "values")


def step(bench: Bench) -> Results:
    """A whole training step with all losses that the capture has maps for: the card against the CPU, and itself."""
    here, there = bench.stirred_model(light=LightConfig("sh")), bench.model(light=LightConfig("sh"))
    there.load_state_dict(here.state_dict())
    there.step = here.step
    there.train().to(bench.options.device)
    expected, got, again = (_one_step(bench, model) for model in (here, there, there))
    replayed = [_one_step(bench, there, whole=True) for _ in range(2)][-1]
    errors = {}
    for what, pair in (("card/CPU", (got, expected)), ("replayed/card", (replayed, got))):
        errors[what] = {name: relative(value, pair[1][name]) for name, value in pair[0].items()}
        for kind, limit in (("map", VALUES), ("loss", VALUES), ("gradient", GRADIENTS_OF_STEP)):
            of_kind = {name.split(" ", 1)[1]: e for name, e in errors[what].items() if name.startswith(kind)}
            if of_kind:
                bench.check(f"step, {what}, {kind}", of_kind, limit)
    itself = {name: relative(again[name], value) for name, value in got.items()}
    bench.say(f"step, card against itself, largest: {max(itself.values()):.0e}")
    return {"surfels": len(here.surfels.means), "errors": errors, "card against itself": itself}


def _one_step(bench: Bench, model: FMGSModel, whole: bool = False) -> dict[str, Tensor]:
    """Maps, losses, and gradients by optimiser; `whole`: as the pipeline asks for it, without maps."""
    camera, batch = bench.cropped_frame
    model.zero_grad()
    outputs: dict[str, Any] = {} if whole else model.get_outputs(camera)
    terms = model(camera, batch)[0] if whole else model.get_loss_dict(outputs, batch)
    torch.stack(list(terms.values())).sum().backward()
    found = {f"map {name}": value for name, value in outputs.items() if isinstance(value, Tensor)}
    found |= {f"loss {name}": value for name, value in terms.items()}
    for group, parameters in model.get_param_groups().items():
        if gradients := [p.grad.flatten() for p in parameters if p.grad is not None]:
            found[f"gradient {group}"] = torch.cat(gradients)
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def _scene(bench: Bench) -> tuple[PosedSurfels, Camera]:
    """Surfels of an avatar in a training pose, and the camera, on the CPU."""
    model = bench.stirred_model()
    camera, _ = bench.cropped_frame
    with torch.no_grad():
        return model.pose_avatar(model.pose_id(camera)).posed.by(OPEN), Camera.from_nerfstudio(camera)


def layers(bench: Bench) -> Results:
    """The rasteriser alone: every number of channels, every route, and both devices against float64."""
    posed, view = _scene(bench)
    device = torch.device(bench.options.device)

    def draw(at: torch.device, channels: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(channels)
        values = torch.randn(len(posed.means), channels, generator=generator)
        leaves = [x.to(at).clone().requires_grad_() for x in (*posed, values)]
        (image,) = rasterize_finer([Layer(*leaves)], view.to(at), 2)
        image.backward(torch.randn(image.shape, generator=generator).to(at))
        return [image, *(_gradient(x) for x in leaves)]

    by_channels = {}
    for channels in CHANNELS if bench.on_card else CHANNELS[::4]:
        pair = zip(draw(device, channels), draw(torch.device("cpu"), channels), strict=True)
        by_channels[channels] = dict(zip(_OF_LAYER, (relative(a, b) for a, b in pair), strict=True))
        bench.check(f"layer of {channels} channels, card/CPU", by_channels[channels], GRADIENTS)
    return {
        "channels": by_channels,
        "routes": _routes(bench, posed, view),
        "float64": _against_float64(bench, posed, view),
    }


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _routes(bench: Bench, posed: PosedSurfels, view: Camera) -> Results:
    """Four layers of one geometry, each with the gradients that its route admits."""

    def gradients(at: torch.device) -> dict[str, Tensor | None]:
        layers, leaves = [], {}
        for name, route in ROUTES.items():
            values = torch.ones(len(posed.means), 3)
            means, tangents, opacities, values = own = [x.to(at).clone().requires_grad_() for x in (*posed, values)]
            leaves[name] = own
            layers.append(
                Layer(
                    means if route.position else means.detach(),
                    tangents if route.orientation else tangents.detach(),
                    opacities if route.shape else opacities.detach(),
                    values,
                )
            )
        images = rasterize_finer(layers, view.to(at), 2)
        torch.stack([(image * (i + 1)).square().mean() for i, image in enumerate(images)]).sum().backward()
        return {f"{n} {k}": x.grad for n, own in leaves.items() for k, x in zip(_OF_LAYER[1:], own, strict=True)}

    card, cpu = gradients(torch.device(bench.options.device)), gradients(torch.device("cpu"))
    wrong = [name for name, value in cpu.items() if (card[name] is None) != (value is None)]
    bench.failures += [f"routes: {name} has a gradient and should not, or the reverse" for name in wrong]
    errors = {k: relative(a, b) for k, b in cpu.items() if (a := card[k]) is not None and b is not None}
    bench.check("routes, card/CPU", errors, GRADIENTS)
    return errors


def _against_float64(bench: Bench, posed: PosedSurfels, view: Camera) -> Results:
    """The definition on a small picture says which of the two is nearer to the truth."""
    size = 48 if bench.on_card else 8
    K = view.K * view.K.new_tensor([size / view.width, size / view.height, 1.0])[:, None]

    def draw(executor: Executor, device: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(device, dtype).clone().requires_grad_() for x in posed]
        values = torch.randn(len(posed.means), 4, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        camera = Camera(view.viewmat.to(device, dtype), K.to(device, dtype), size, size)
        (image,) = rasterize([Layer(*[*leaves, values])], camera, executor)
        image.square().sum().backward()
        return [image, *(_gradient(x) for x in leaves)]

    found, truth = {}, draw("reference", bench.options.device, torch.float64)
    for name, device in (("card", bench.options.device), ("CPU", "cpu")):
        pairs = zip(draw("auto", device, torch.float32), truth, strict=True)
        found[name] = dict(zip(_OF_LAYER[:4], (relative(a, b) for a, b in pairs), strict=True))
        bench.check(f"{name} against the float64 definition, {size} px", found[name], GRADIENTS)
    return found


def pieces(bench: Bench) -> Results:
    """What else runs otherwise on the card: its float32 against the CPU's float64; SSIM by every precision flag."""
    model = bench.stirred_model()
    _, batch = bench.cropped_frame
    target = batch["image"]
    found: dict[str, dict[str, float]] = {}

    def compare(name: str, function: Callable[..., Tensor], truth: Callable[..., Tensor], *leaves: Tensor) -> None:
        results = []
        for f, device, dtype in ((function, bench.options.device, torch.float32), (truth, "cpu", torch.float64)):
            own = [x.detach().to(device, dtype).clone().requires_grad_() for x in leaves]
            value = f(*own)
            weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(3)).to(value)
            (value * weight).sum().backward()
            results.append([value, *(_gradient(x) for x in own)])
        names = ["value", *(f"gradient {i}" for i in range(len(leaves)))]
        errors = (relative(a, b) for a, b in zip(*results, strict=True))
        found[name] = dict(zip(names, errors, strict=True))
        # A point on a cell's face has two gradients: rounding decides.
        limits = {"value": VALUES, "gradient": GRADIENTS}
        for kind, limit in limits.items():
            of_kind = {what: error for what, error in found[name].items() if what.startswith(kind)}
            bench.check(f"{name}, card float32 against CPU float64", of_kind, limit)

    flags: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [holder.allow_tf32 for holder in flags]
    try:
        for allowed in (True, False):
            for holder in flags:
                holder.allow_tf32 = allowed
            compare(
                f"SSIM, TF32 {'on' if allowed else 'off'}",
                lambda x: ssim(x, target.to(x)),
                lambda x: ssim_reference(x, target.to(x)),
                target * 0.9 + 0.05,
            )
    finally:
        for holder, allowed in zip(flags, before, strict=True):
            holder.allow_tf32 = allowed

    config = model.skinning.encoding.config
    points = ((model.surfels.means - model.skinning.low) / model.skinning.extent).clamp(0, 1)
    compare(
        "hash encoding",
        lambda p, x: encode(p, x, config),
        lambda p, x: encode_reference(p, x, config),
        model.skinning.encoding.params,
        points,
    )
    volume, index = model.V_g, model.V_g.index
    compare(
        "volume",
        lambda table: interpolate_reference(table, index.to(table.device), volume.fraction.to(table)),
        lambda table: interpolate_reference(table, index, volume.fraction.to(table)),
        volume.table,
    )
    patch = next(iter(model.patches))
    means, near = model.surfels.means[patch.rows], patch.neighbours
    both = torch.stack([means, means * 1.01])
    compare(
        "isometry",
        lambda x: distance_change(x[0], x[1], near.to(x.device)),
        lambda x: distance_change_reference(x[0], x[1], near),
        both,
    )
    return found
