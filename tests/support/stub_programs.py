"""Stand-ins for fmgs-check, ns-train and ns-eval that start in milliseconds, beside a Python of their own.

What they write depends on their arguments and on the capture's content alone, but for times, as the real ones do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

_STUB = """#!{python} -IS
import hashlib, json, os, sys, time, zlib
from pathlib import Path
name, args = Path(sys.argv[0]).name, sys.argv[1:]
value = lambda flag: args[args.index(flag) + 1]
time.sleep(float(os.environ.get("STUB_SECONDS", 0)))
with open(os.environ["STUB_CALLS"], "a") as calls:
    calls.write(" ".join([name, *args]) + "\\n")
if name == "fmgs-check":
    capture, out = Path(args[0]), Path(value("--out"))
    if (capture / "not_ready").exists():
        print("Not ready: the masks lie beside the person")
        sys.exit(1)
    if not capture.is_dir():
        sys.exit(f"fmgs-check: {{capture}} does not exist")
    out.mkdir()
    (out / "index.html").write_text("ready")
elif name == "ns-train":
    capture = Path(value("--data"))
    if (capture / "explodes").exists():
        print("one", "two", "three", "four", "the loss is not finite", sep="\\n", flush=True)
        os.kill(os.getpid(), 9)
    run = Path(value("--output-dir"), value("--experiment-name"), args[0], value("--timestamp"))
    run.mkdir(parents=True)
    trained = [args[0], value("--machine.seed"), *sorted(p.read_text() for p in capture.glob("*.txt"))]
    trained += [word for flag in ("--max-num-iterations", "--pipeline.model.weights.lambda-d")
                if flag in args for word in (flag, value(flag))]
    (run / "config.yml").write_text(json.dumps(trained))
elif name == "ns-eval":
    trained = Path(value("--load-config")).read_text()
    if "mute" in trained:  # ends well without its file
        sys.exit(0)
    psnr = 20 + zlib.crc32(trained.encode()) / 2**30 + 1e-15
    results = {{"psnr": psnr, "novel_pose_psnr": psnr - 3, "fps": time.time(), "train_seconds": time.time()}}
    Path(value("--output-path")).write_text(json.dumps({{"results": results}}))
    images = Path(value("--render-output-path"))
    images.mkdir()
    for kind in ("img", "maps"):
        (images / f"eval_novel_view_{{kind}}_0000.png").write_bytes(b"")
"""
PROGRAMS = ("fmgs-check", "ns-train", "ns-eval")


def install(folder: Path) -> Path:
    """Write the programs, and a Python that finds them beside it. Returns the Python."""
    folder.mkdir(parents=True)
    python = folder / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    for name in PROGRAMS:
        (folder / name).write_text(_STUB.format(python=os.path.realpath(sys.executable)))
        (folder / name).chmod(0o755)
    return python


def environment(calls: Path, seconds: float = 0) -> dict[str, str]:
    """Variables for that Python. `calls`: file that the programs write a line to, each time that they run."""
    path = [sysconfig.get_path("purelib"), *filter(None, sys.path)]
    own = {"STUB_CALLS": str(calls), "STUB_SECONDS": str(seconds), "PYTHONPATH": os.pathsep.join(path)}
    return {**os.environ, **own, "COLUMNS": "200"}


def captures(folder: Path, count: int) -> None:
    """Good captures, as the stubs know them."""
    for i in range(count):
        (folder / f"p{i:02d}").mkdir(parents=True)
        (folder / f"p{i:02d}" / "person.txt").write_text(f"person {i}")


def batch(python: Path, variables: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    """`fmgs-batch` with these arguments, with the programs beside `python`."""
    words = [str(python), "-m", "fmgs_nerfstudio.cli.batch", *(str(word) for word in arguments)]
    return subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
