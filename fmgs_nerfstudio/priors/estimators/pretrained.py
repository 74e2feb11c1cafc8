"""Opening what `transformers` saved, so that whatever is wrong with it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmgs_nerfstudio.gate import read_json
from fmgs_nerfstudio.priors.checkpoints import EXTRA
from fmgs_nerfstudio.priors.estimators.base import EstimatorError, EstimatorOptions, wrong_checkpoint

FILES = ("config.json", "preprocessor_config.json", "model*.safetensors")


def import_transformers(name: str = "AutoModel") -> Any:
    """The module `transformers`, which must know the class `name`.

    Raises:
        EstimatorError: it is not installed, or too old.
    """
    try:
        import transformers
    except ImportError as error:
        raise EstimatorError(f"This estimator needs transformers, which is not installed: {EXTRA}") from error
    if not hasattr(transformers, name):
        raise EstimatorError(
            f"transformers {transformers.__version__} has no {name}; Sapiens2 came with 5.10: {EXTRA} --upgrade"
        )
    return transformers


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a saved model.

    Raises:
        CheckpointError: missing or corrupt.
    """
    path = folder / "config.json"
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise wrong_checkpoint(path, f"cannot be read ({error}); get it again.") from error
    if not isinstance(config, dict):
        raise wrong_checkpoint(path, "is not a model's configuration; get it again.")
    return config


def load_pretrained(model_class: Any, folder: Path, options: EstimatorOptions) -> Any:
    """The model in `folder`, whole, in evaluation mode, on the chosen device.

    Raises:
        CheckpointError: its files are corrupt, or lack weights that the model has (they would be random).
    """
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # there is one already
    try:
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=options.dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise wrong_checkpoint(
            folder, f"cannot be opened: half downloaded or corrupt; get it again ({reason})."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise wrong_checkpoint(
            folder, f"lacks {len(missing)} of the weights of {type(model).__name__}, e.g. {missing[0]}; get it again."
        )
    return model.to(options.device).eval()
