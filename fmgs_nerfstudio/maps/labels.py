"""Class names and ids of other label sets, in terms of the 28 of Sapiens v1 ("Goliath")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.gate import read_json
from fmgs_nerfstudio.maps.classes import CLASSES, IDS, NUM_CLASSES

DOME29_TO_GOLIATH: UInt8[Array, "29"] = np.array([0, 1, IDS["Apparel"], *range(2, NUM_CLASSES)], dtype=np.uint8)
"""Ids of Sapiens2: the 28 with Eyeglass put in at 2 (its DOME_CLASSES_29)."""

# ATR, LIP and CIHP name arms and legs whole and mean the skin that shows: as a rule the lower half. Left is the
# subject's in all of them.
_NAMES = {
    "Background": ("background",),
    "Apparel": ("hat", "sunglasses", "glasses", "glove", "gloves", "belt", "bag", "scarf"),
    "Face_Neck": ("face", "neck"),
    "Hair": ("hair",),
    "Upper_Clothing": ("upper-clothes", "upperclothes", "top", "coat", "dress", "jumpsuits"),
    "Lower_Clothing": ("pants", "skirt"),
    "Torso": ("torso", "torso-skin"),
    "Left_Lower_Arm": ("left-arm",),
    "Right_Lower_Arm": ("right-arm",),
    "Left_Lower_Leg": ("left-leg",),
    "Right_Lower_Leg": ("right-leg",),
    "Left_Shoe": ("left-shoe",),
    "Right_Shoe": ("right-shoe",),
    "Left_Sock": ("left-sock",),
    "Right_Sock": ("right-sock",),
}
_KNOWN = {name: IDS[target] for target, names in _NAMES.items() for name in names}
_KNOWN |= {name.lower().replace("_", "-"): index for name, index in IDS.items()}


def label_table(names: Mapping[int, str], label_map: Path | None) -> dict[str, int]:
    """The Goliath id of each of a model's class names.

    `label_map` is a JSON file of model names to Goliath names, "*" for all that it does not list; without it, the names
    of ATR, LIP, CIHP and Sapiens are known.

    Raises:
        ValueError: a name has no counterpart, or the file is not such a map; says which names there are.
    """
    given = _read(label_map, set(names.values())) if label_map else {}
    table: dict[str, int] = {}
    for name in names.values():
        target = given.get(name, given.get("*"))
        known = _KNOWN.get(name.strip().lower().replace("_", "-").replace(" ", "-"))
        if target is None and known is None:
            raise ValueError(
                f"the class {name!r} has no counterpart among the 28; give --label-map FILE.json, an object of the "
                f'model\'s names ({", ".join(names.values())}) to ours ({", ".join(CLASSES)}), "*" for all others'
            )
        table[name] = IDS[target] if target is not None else int(known or 0)
    return table


def _read(path: Path, names: set[str]) -> dict[str, str]:
    try:
        given = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--label-map: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"--label-map {path}: expected a JSON object")
    if strange := sorted(given.keys() - names - {"*"}):
        raise ValueError(f"--label-map {path}: the model has no class {strange[0]!r}, but {', '.join(sorted(names))}")
    if strange := [value for value in given.values() if value not in IDS]:
        raise ValueError(f"--label-map {path}: {strange[0]!r} is none of {', '.join(CLASSES)}")
    return given
