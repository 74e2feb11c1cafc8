"""The numbers of FMGS-Avatar's Tables 1, 2 and 3, as printed."""

from __future__ import annotations

from typing import NamedTuple

ZJU_SUBJECTS = ("377", "386", "387", "392", "393", "394")


class Row(NamedTuple):
    """PSNR in dB, SSIM, LPIPS times 1000, training time and frames per second where the table has them."""

    method: str
    psnr: float
    ssim: float
    lpips: float
    train: str = ""
    fps: float | None = None


TABLE_1 = (
    Row("NeuralBody", 29.03, 0.964, 52.29, "10h", 1.5),
    Row("Anim-NeRF", 29.17, 0.961, 51.98, "13h", 1.1),
    Row("MonoHuman", 30.26, 0.969, 30.92, "6h", 0.1),
    Row("InstantAvatar", 29.73, 0.938, 64.41, "5m", 4.2),
    Row("HumanNeRF", 30.24, 0.969, 33.38, "10h", 0.3),
    Row("GoMAvatar", 30.56, 0.967, 32.55, "15h", 43),
    Row("GauHuman", 30.79, 0.960, 32.73, "1m", 180),
    Row("3DGS-Avatar", 30.61, 0.965, 30.28, "17m", 50),
    Row("FMGS-Avatar", 30.89, 0.972, 28.59, "10m", 55),
)
"""ZJU-MoCap, novel views: means over `ZJU_SUBJECTS`."""

TABLE_2 = {
    "male-3-casual": (
        Row("Anim-NeRF", 23.17, 0.9266, 78.4),
        Row("NeuralBody", 24.94, 0.9428, 32.6),
        Row("Anim-3DGS", 29.06, 0.9704, 26.4),
        Row("InstantAvatar", 29.65, 0.9731, 19.2),
        Row("3DGS-Avatar", 30.57, 0.9581, 20.9),
        Row("FMGS-Avatar", 30.92, 0.9816, 15.2),
    ),
    "male-4-casual": (
        Row("Anim-NeRF", 22.30, 0.9235, 91.1),
        Row("NeuralBody", 24.71, 0.9469, 42.3),
        Row("Anim-3DGS", 26.16, 0.9554, 49.1),
        Row("InstantAvatar", 27.97, 0.9649, 34.6),
        Row("3DGS-Avatar", 33.16, 0.9678, 15.7),
        Row("FMGS-Avatar", 33.78, 0.9753, 23.7),
    ),
    "female-3-casual": (
        Row("Anim-NeRF", 22.37, 0.9311, 78.4),
        Row("NeuralBody", 23.87, 0.9504, 34.6),
        Row("Anim-3DGS", 24.59, 0.9535, 39.9),
        Row("InstantAvatar", 27.9, 0.9722, 24.9),
        Row("3DGS-Avatar", 34.28, 0.9724, 14.9),
        Row("FMGS-Avatar", 33.89, 0.9854, 14.2),
    ),
    "female-4-casual": (
        Row("Anim-NeRF", 23.18, 0.9292, 68.7),
        Row("NeuralBody", 24.37, 0.9451, 38.2),
        Row("Anim-3DGS", 27.26, 0.9634, 28.1),
        Row("InstantAvatar", 28.92, 0.9692, 18.0),
        Row("3DGS-Avatar", 30.22, 0.9653, 23.1),
        Row("FMGS-Avatar", 30.95, 0.9873, 15.8),
    ),
}
"""PeopleSnapshot, by subject."""

TABLE_3_FULL = Row("FMGS-Avatar, 377 alone (Table 3)", 31.22, 0.978, 26.53)
"""The full method of the ablation, on ZJU-MoCap's subject 377."""

TABLE_3 = (
    Row("none", 29.98, 0.938, 29.53),
    Row("+ L_d", 30.31, 0.958, 28.23),
    Row("+ L_sn", 30.73, 0.963, 28.01),
    Row("+ L_n", 31.09, 0.975, 27.42),
    Row("+ L_s: full method", 31.22, 0.978, 26.53),
)
"""The ablation, on ZJU-MoCap's subject 377."""
