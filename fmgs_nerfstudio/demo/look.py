"""What a seed decides: body shape, clothes, colours, prints, hair, skin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Colour = tuple[float, float, float]
TrouserStyle = Literal["plain", "denim", "track", "checked", "dotted"]


@dataclass(frozen=True)
class Print:
    """A picture on the shirt, in metres on the T-posed template."""

    motif: Literal["box", "badge", "plain"]
    text: str
    colours: tuple[Colour, Colour]
    """Ground and ink."""
    front: bool
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Look:
    """One person. Colours are sRGB in 0..1."""

    betas: tuple[float, ...]
    skin: Colour
    lips: Colour
    iris: Colour
    hair: Literal["short", "long", "bun"]
    hair_colour: Colour
    shirt: Literal["striped", "plain", "raglan", "checked", "block"]
    shirt_colours: tuple[Colour, Colour, Colour]
    trim: Colour
    prints: tuple[Print, ...]
    sleeve: float
    neck: Literal["crew", "v"]
    shirt_loose: float
    legs: Literal["shorts", "trousers", "skirt"]
    trousers: TrouserStyle
    trouser_colours: tuple[Colour, Colour]
    leg_hem: float
    leg_loose: float
    socks: float
    sock_colours: tuple[Colour, Colour]
    shoe_colours: tuple[Colour, Colour, Colour]
    laces: Colour
    watch: bool
    strap: Colour


def rgb(code: str) -> Colour:
    """ "#1e90ff" as fractions."""
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)


_SKINS = ("#e9c3a9", "#d6a483", "#c08a66", "#9c6a4a", "#744a33", "#f0d0bb")
_HAIRS = ("#2a1d17", "#14110f", "#5a3620", "#a97b45", "#7a3d22", "#38302c")
_IRISES = ("#5b3a1e", "#3f6a8a", "#4f6b3a", "#3a2716")
# ground, second, accent, trim
_SHIRTS = (
    ("#eef0ee", "#1d3f94", "#d6252b", "#1d3f94"),
    ("#f2c230", "#2b2d33", "#d9532c", "#2b2d33"),
    ("#1f7a6d", "#f3ead7", "#e2893b", "#14544b"),
    ("#c7352f", "#f3ead7", "#1f2a44", "#8e211d"),
    ("#e9e4da", "#7a2f4f", "#d99a2b", "#7a2f4f"),
    ("#27406e", "#d9dfe8", "#e0523f", "#1a2c4f"),
    ("#6a4c93", "#f0e6ff", "#ffca3a", "#4b336b"),
)
_LEGS = (("#4c5b39", "#c9b06a"), ("#2f4a75", "#c98b3c"), ("#2b2e36", "#e8e8e6"), ("#8a7350", "#4d3e28"),
         ("#7d2a35", "#f1e2c4"), ("#25585c", "#f0cf8a"))  # fmt: skip
_SOCKS = (("#f1f1ee", "#cf2f37"), ("#f1f1ee", "#2a57a8"), ("#2e3138", "#e7b23a"), ("#e8dcc8", "#3f7a5a"))
_SHOES = (("#1f2740", "#f4f2ec", "#ee7b2d"), ("#f1efe9", "#f7f6f2", "#2f6f4f"), ("#b8322e", "#f2efe6", "#24272e"),
          ("#3c4148", "#e9e6de", "#6fc1d6"))  # fmt: skip
_TROUSERS: dict[str, tuple[TrouserStyle, ...]] = {
    "shorts": ("plain", "checked", "track"),
    "trousers": ("denim", "track", "plain"),
    "skirt": ("checked", "dotted", "plain"),
}
_WORDS = ("DEMO", "FMGS", "SURF", "ORBIT", "NORTH", "KITE")


def sample_look(seed: int) -> Look:
    """The person of a seed. Seed 0 wears a striped T-shirt and shorts; seeds 1 and 2 the other two outfits."""
    rng = np.random.default_rng([seed, 11])

    def pick(choices: Sequence[object]) -> int:
        return int(rng.integers(len(choices)))

    legs = ("shorts", "trousers", "skirt")[seed % 3]
    betas = np.clip(rng.normal(0, 0.8, 10), -1.6, 1.6)
    shirt_colours = _SHIRTS[0] if seed == 0 else _SHIRTS[pick(_SHIRTS)]
    ground, second, accent, trim = (rgb(code) for code in shirt_colours)
    shirt = "striped" if seed == 0 else ("striped", "plain", "raglan", "checked", "block")[(seed + pick((0, 1))) % 5]
    long_sleeves = legs == "trousers"
    number = str(rng.integers(2, 99))
    motif = ("box", "badge", "plain")[0 if seed == 0 else pick((0, 1, 2))]
    word = "DEMO" if seed == 0 else _WORDS[pick(_WORDS)]
    bright = sum(accent) / 3 > 0.55
    ink = accent if motif == "plain" else rgb("#23262d" if bright else "#f7e6b0")
    prints = (
        Print(motif, f"{word}\n{number}", (accent, ink), True, 0.115, 0.19, 0.17 if motif == "box" else 0.19),
        Print(
            "box" if motif == "box" else "plain",
            str(rng.integers(1, 10)),
            (rgb("#e9bd2c"), rgb("#17181c")),
            False,
            0.11,
            0.16,
            0.20,
        ),
    )
    styles = _TROUSERS[legs]
    style = styles[0 if seed < 3 else pick(styles)]
    legs_colours = _LEGS[0] if seed == 0 else _LEGS[1] if style == "denim" else _LEGS[pick(_LEGS)]
    socks = _SOCKS[0 if seed == 0 else pick(_SOCKS)]
    shoes = _SHOES[0 if seed == 0 else pick(_SHOES)]
    return Look(
        betas=tuple(float(b) for b in betas),
        skin=rgb(_SKINS[1 if seed == 0 else pick(_SKINS)]),
        lips=(float(rng.uniform(0.92, 1.0)), float(rng.uniform(0.72, 0.9)), float(rng.uniform(0.78, 0.92))),
        iris=rgb(_IRISES[pick(_IRISES)]),
        hair=("short", "long", "bun")[(seed + (0 if seed < 3 else pick((0, 1, 2)))) % 3],
        hair_colour=rgb(_HAIRS[2 if seed == 0 else pick(_HAIRS)]),
        shirt=shirt,
        shirt_colours=(ground, second, accent),
        trim=trim,
        prints=prints if shirt != "checked" else (),
        sleeve=float(rng.uniform(0.685, 0.70) if long_sleeves else rng.uniform(0.33, 0.40)),
        neck="crew" if seed % 2 == 0 else "v",
        shirt_loose=float(rng.uniform(0.012, 0.022)),
        legs=legs,
        trousers=style,
        trouser_colours=(rgb(legs_colours[0]), rgb(legs_colours[1])),
        leg_hem={"shorts": rng.uniform(-0.62, -0.54), "trousers": -1.10, "skirt": rng.uniform(-0.66, -0.58)}[legs],
        leg_loose=float(rng.uniform(0.012, 0.022)),
        socks=-0.86 if legs == "skirt" else float(rng.uniform(-1.03, -0.98)),
        sock_colours=(rgb(socks[0]), rgb(socks[1])),
        shoe_colours=(rgb(shoes[0]), rgb(shoes[1]), rgb(shoes[2])),
        laces=rgb("#f2f0ea") if seed % 4 != 1 else rgb("#33363d"),
        watch=not long_sleeves and (seed == 0 or bool(rng.random() < 0.7)),
        strap=rgb(("#1b1c20", "#6b3f24", "#c63a2f")[pick((0, 1, 2))]),
    )
