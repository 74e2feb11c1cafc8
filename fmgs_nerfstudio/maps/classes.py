"""The 28 body-part classes of Sapiens v1 ("Goliath"): ids, names, palette, mirror pairs and groups.

Left and right are the subject's. A limb under cloth has the cloth's class. Source: facebookresearch/sapiens,
lite/demo/classes_and_palettes.py.
"""

from __future__ import annotations

import numpy as np

from fmgs_nerfstudio.arrays import Array

_TABLE = (
    ("Background", (50, 50, 50)),
    ("Apparel", (255, 218, 0)),
    ("Face_Neck", (128, 200, 255)),
    ("Hair", (255, 0, 109)),
    ("Left_Foot", (189, 0, 204)),
    ("Left_Hand", (255, 0, 218)),
    ("Left_Lower_Arm", (0, 160, 204)),
    ("Left_Lower_Leg", (0, 255, 145)),
    ("Left_Shoe", (204, 0, 131)),
    ("Left_Sock", (182, 0, 255)),
    ("Left_Upper_Arm", (255, 109, 0)),
    ("Left_Upper_Leg", (0, 255, 255)),
    ("Lower_Clothing", (72, 0, 255)),
    ("Right_Foot", (204, 131, 0)),
    ("Right_Hand", (255, 0, 0)),
    ("Right_Lower_Arm", (72, 255, 0)),
    ("Right_Lower_Leg", (189, 204, 0)),
    ("Right_Shoe", (182, 255, 0)),
    ("Right_Sock", (102, 0, 204)),
    ("Right_Upper_Arm", (32, 72, 204)),
    ("Right_Upper_Leg", (0, 145, 255)),
    ("Torso", (14, 204, 0)),
    ("Upper_Clothing", (0, 128, 72)),
    ("Lower_Lip", (235, 205, 119)),
    ("Upper_Lip", (115, 227, 112)),
    ("Lower_Teeth", (157, 113, 143)),
    ("Upper_Teeth", (132, 93, 50)),
    ("Tongue", (82, 21, 114)),
)

CLASSES: tuple[str, ...] = tuple(name for name, _ in _TABLE)
"""Class names; the index is the id."""

NUM_CLASSES = len(CLASSES)

PALETTE: Array = np.array([colour for _, colour in _TABLE], dtype=np.uint8)
"""[28, 3] RGB, as Sapiens draws them."""

IDS: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}

MIRROR_PAIRS: tuple[tuple[int, int], ...] = tuple(
    (IDS[f"Left_{part}"], IDS[f"Right_{part}"])
    for part in ("Foot", "Hand", "Lower_Arm", "Lower_Leg", "Shoe", "Sock", "Upper_Arm", "Upper_Leg")
)
"""(left, right) ids that swap when an image is mirrored."""

HEAD: frozenset[int] = frozenset(
    IDS[name] for name in ("Face_Neck", "Hair", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue")
)
CLOTH: frozenset[int] = frozenset(
    IDS[name]
    for name in (
        "Apparel",
        "Left_Shoe",
        "Left_Sock",
        "Lower_Clothing",
        "Right_Shoe",
        "Right_Sock",
        "Upper_Clothing",
    )
)
SKIN: frozenset[int] = frozenset(
    {IDS["Face_Neck"], IDS["Torso"]}
    | {i for pair in MIRROR_PAIRS for i in pair if not CLASSES[i].endswith(("Shoe", "Sock"))}
)
