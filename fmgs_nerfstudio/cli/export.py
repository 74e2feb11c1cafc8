"""`fmgs-export`: a trained avatar as splats, as a skinned and animated mesh, and as a mesh."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.evaluation.runs import RunError, open_run
from fmgs_nerfstudio.export.accuracy import geometry_error
from fmgs_nerfstudio.export.fitting import baked_splats, fit_splats, picture_psnr
from fmgs_nerfstudio.export.skinned import write_skinned
from fmgs_nerfstudio.export.splats import Splats, write_splats
from fmgs_nerfstudio.export.surface import learned_mesh, write_mesh
from fmgs_nerfstudio.files import atomic_path, ensure_writable
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.motion.motion import Motion, MotionError
from fmgs_nerfstudio.motion.readers import Reading, read_motion
from fmgs_nerfstudio.relighting import LightError, Relighting, relit

FormatName = Literal["splats", "glb", "obj", "ply"]
_SH = {0: 1, 3: 16}


@dataclass(frozen=True)
class Export:
    """Write a trained avatar for other programs: avatar_splats.ply, avatar.glb, avatar.obj or avatar.ply.

    splats: what splat viewers open, fitted to look there as the avatar does here. glb: the learned surface with 24
    joints, baked colours, trained parts (attribute _PART) and animations. obj, ply: the mesh with vertex colours.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run: its config.yml, its folder, or a folder above (the newest run in it)."""
    out: Path | None = None
    """Folder for the files. Default: export/ in the run's folder."""
    formats: tuple[FormatName, ...] = ("splats", "glb", "obj")
    """Files to write: splats (.ply), a skinned mesh (.glb), a mesh with vertex colours (.obj or .ply)."""
    motions: tuple[Path, ...] = ()
    """Motion files, or captures' folders, for the animations of the glb. Default: the run's own capture."""
    data: Path | None = None
    """Folder of the run's capture, where it has moved. Default: as config.yml says; it need not be there."""
    frame: int | None = None
    """Frame of the first motion whose pose splats and mesh take. Default: the canonical pose (y up)."""
    fps: float = 30.0
    """Frames per second of the animations; motions are resampled."""
    sh_degree: Literal[0, 3] = 3
    """Degree of the splats' spherical harmonics. 0: no dependence on the view, a quarter of the size."""
    splat_steps: int = 600
    """Steps that fit the splats to our renders, because viewers draw every back face. 0 exports surfels as they are."""
    turn_splats: bool = False
    """Turn the splats by half a turn about z, which SuperSplat takes back: there the person then stands upright."""
    albedo: bool = False
    """Leave out the light of an avatar that was trained with one: for programs that light it themselves."""
    clamp_pose_input: bool = False
    """Limit what the pose-dependent fields see to the range of training."""
    geometry: bool = True
    """Measure the mesh against the true surface, where the capture has one (those of fmgs-demo do)."""
    reading: Reading = field(default_factory=Reading)
    """Axes, unit and rate of the motion files."""


def run(export: Export) -> None:
    """Write the files and say where they are.

    Raises:
        MotionError, RunError, LightError: a motion or the run cannot be used, or there is no light to leave out.
    """
    if not export.fps > 0:
        raise MotionError(f"--fps is {export.fps}; expected more than 0")
    motions = [read_motion(path, export.reading) for path in export.motions]
    opened = open_run(export.run, export.data)
    avatar = FrozenAvatar(opened.model, export.clamp_pose_input)
    if export.albedo:
        capture = avatar.model.kwargs["metadata"]["capture"]
        avatar.model.light = relit(avatar.model.light, Relighting("none"), capture)
    own = avatar.own_motion(export.reading.fps)
    placed = [motion.stand_in_for(own, avatar.model.canonical) for motion in motions] or [own]
    out = export.out or opened.folder / "export"
    ensure_writable(out)
    posed, B = _pose(avatar, placed[0], export.frame)
    name = "avatar" if export.frame is None else f"avatar_{export.frame:06d}"
    if "splats" in export.formats:
        splats = posed_splats(avatar, posed, export.sh_degree, export.splat_steps)
        write_splats(*(splats.half_turned() if export.turn_splats else splats), out / f"{name}_splats.ply")
        psnr = picture_psnr(avatar.model, posed, splats)
        print(f"Wrote {out / f'{name}_splats.ply'}: drawn by other programs, PSNR {psnr:.1f} dB against our pictures")
    if "glb" in export.formats:
        mesh, path = learned_mesh(avatar.model, avatar.at_rest()), out / "avatar.glb"
        motions = [motion.resample(export.fps) for motion in placed]
        write_skinned(mesh, avatar.model.canonical, motions, path, lit_by_viewer=export.albedo)
        print(f"Wrote {path}: {len(mesh.vertices):,} vertices, animations: {', '.join(m.name for m in placed)}")
    if suffixes := {"obj", "ply"}.intersection(export.formats):
        mesh = learned_mesh(avatar.model, posed)
        for suffix in sorted(suffixes):
            write_mesh(mesh, mesh.posed(B), out / f"{name}.{suffix}")
            print(f"Wrote {out / f'{name}.{suffix}'}")
    if export.geometry:
        report_geometry(avatar, out / "geometry.json")


def _pose(avatar: FrozenAvatar, motion: Motion, frame: int | None) -> tuple[Avatar, Float[Tensor, "24 4 4"]]:
    """The avatar in a frame of a motion, or at rest; and its bones from canonical space."""
    if frame is None:
        return avatar.at_rest(), torch.eye(4, device=avatar.model.device).expand(24, 4, 4)
    if not 0 <= frame < len(motion):
        raise MotionError(f"--frame is {frame}; {motion.name} has the frames 0 to {len(motion) - 1}")
    pose, transl = (
        torch.from_numpy(values[frame]).float().to(avatar.model.device) for values in (motion.poses, motion.transl)
    )
    return avatar.pose(pose, transl), avatar.model.canonical(pose, transl)[1]


def posed_splats(avatar: FrozenAvatar, posed: Avatar, sh_degree: Literal[0, 3] = 3, steps: int = 0) -> Splats:
    """The posed avatar's surfels with colours baked into spherical harmonics, fitted in so many steps.

    A picture of another program is one of ours with all back faces drawn (`RenderingConfig.backface_cutoff` 1),
    whatever the avatar was trained with; where it was trained like that, there is nothing to fit.
    """
    splats = baked_splats(avatar.model, posed, _SH[sh_degree])
    if steps and avatar.model.config.rendering.backface_cutoff < 1:
        splats = fit_splats(avatar.model, posed, splats, steps)
    return splats


def report_geometry(avatar: FrozenAvatar, path: Path) -> None:
    """Print and write (JSON) the errors of the learned surface, if the capture knows the true one."""
    errors = geometry_error(avatar, avatar.model.kwargs["metadata"]["capture"])
    if not errors:
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"unit": "mm", **errors}, indent=2) + "\n")
    table = Table("poses", "to the true surface", "95 %", "from it", "95 %", title=r"Error of the mesh \[mm]")
    for split, values in errors.items():
        table.add_row(split.replace("_", " "), *(f"{value:.1f}" for value in values.values()))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fmgs-export`."""
    export = tyro.cli(Export, prog="fmgs-export", args=arguments)
    with in_one_line("fmgs-export", MotionError, RunError, LightError, interrupted="what is written is whole"):
        run(export)


if __name__ == "__main__":
    main()
