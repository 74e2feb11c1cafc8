"""Which loss moves which parameters: the coordinated training strategy (4.5), measured on a model."""

from __future__ import annotations

from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import Module, Parameter

from fmgs_nerfstudio.model import FMGSModel


def parameter_groups(model: FMGSModel) -> dict[str, list[Parameter]]:
    """Parameters by the part that they belong to, finer than the optimisers' groups; empty parts left out."""
    geometry = model.geometry
    modules: dict[str, Module] = {
        "pose": model.poses,
        "pose encoder": model.pose_encoder,
        "skinning": model.skinning,
        "trunk": geometry.trunk,
        "displacement": geometry.displacement,
        "rotation": geometry.rotation,
        "scale head": geometry.scale,
        "z_g": geometry.z,
        "appearance": model.appearance,
        "V_g": model.V_g,
        "V_c": model.V_c,
    }
    modules |= {f"V_{name}": volume for name, volume in model.distilled.volumes.items()}
    modules |= dict(model.distilled.decoders.items())
    if model.light is not None:
        modules["light"] = model.light
    groups = {name: list(module.parameters()) for name, module in modules.items()}
    groups |= {"scales": [model.surfels.log_scale], "opacities": [model.surfels.opacity_logit]}
    return {name: parameters for name, parameters in groups.items() if parameters}


def gradient_norms(model: FMGSModel, camera: Cameras, batch: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """L2 norm of the gradient of every active, weighted loss, by loss and part; 0 where a loss does not reach.

    `camera` is one of training, `batch` its maps. The model is left in training mode without gradients.
    """
    model.train()
    groups = parameter_groups(model)
    norms: dict[str, dict[str, float]] = {}
    terms = model.get_loss_dict(model.get_outputs(camera), batch)
    for name, loss in terms.items():
        model.zero_grad()
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        norms[name] = {part: _norm(parameters) for part, parameters in groups.items()}
    model.zero_grad()
    return norms


def _norm(parameters: list[Parameter]) -> float:
    return sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5
