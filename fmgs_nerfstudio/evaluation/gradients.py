"""Which loss moves which parameters: the coordinated training strategy (4.5), measured on a model."""

from __future__ import annotations

from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import Parameter

from fmgs_nerfstudio.model import FMGSModel


def gradient_norms(model: FMGSModel, camera: Cameras, batch: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """L2 norm of the gradient of every active, weighted loss, by loss and part; 0 where a loss does not reach.

    `camera` is one of training, `batch` its maps. The model is left in training mode without gradients.
    """
    model.train()
    parts = model.trained()
    norms: dict[str, dict[str, float]] = {}
    terms = model.get_loss_dict(model.get_outputs(camera), batch)
    for name, loss in terms.items():
        model.zero_grad()
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        norms[name] = {part.part: _norm(part.tensors) for part in parts}
    model.zero_grad()
    return norms


def _norm(parameters: list[Parameter]) -> float:
    return sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5
