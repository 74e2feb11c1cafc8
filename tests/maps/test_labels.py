"""Other label sets in terms of the 28."""

from __future__ import annotations

from fmgs_nerfstudio.maps.classes import CLASSES, IDS
from fmgs_nerfstudio.maps.labels import DOME29_TO_GOLIATH, label_table

# Sapiens2's own list (DOME_CLASSES_29) written out.
DOME = ("Background", "Apparel", "Eyeglass", "Face_Neck", "Hair", "Left_Foot", "Left_Hand", "Left_Lower_Arm",
        "Left_Lower_Leg", "Left_Shoe", "Left_Sock", "Left_Upper_Arm", "Left_Upper_Leg", "Lower_Clothing", "Right_Foot",
        "Right_Hand", "Right_Lower_Arm", "Right_Lower_Leg", "Right_Shoe", "Right_Sock", "Right_Upper_Arm",
        "Right_Upper_Leg", "Torso", "Upper_Clothing", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth",
        "Tongue")  # fmt: skip


def test_29_classes_by_name() -> None:
    assert len(DOME) == len(DOME29_TO_GOLIATH) == 29
    for index, name in enumerate(DOME):
        assert CLASSES[DOME29_TO_GOLIATH[index]] == ("Apparel" if name == "Eyeglass" else name)


def test_names_of_lip_cihp_and_sapiens_are_known() -> None:
    lip = ("Background", "Hat", "Hair", "Glove", "Sunglasses", "UpperClothes", "Dress", "Coat", "Pants", "Jumpsuits",
           "Scarf", "Skirt", "Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg", "Left-shoe",
           "Right-shoe")  # fmt: skip
    table = label_table(dict(enumerate(lip)), None)
    assert [table[name] for name in lip] == [0, 1, 3, 1, 1, 22, 22, 22, 12, 22, 1, 12, 2, 6, 15, 7, 16, 8, 17]
    assert label_table(dict(enumerate(CLASSES)), None) == IDS
