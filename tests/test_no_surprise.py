"""What the programs do beside their work, seen in one process that runs them all: they reach no network, write nothing
elsewhere, and show the avatar to this machine alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pytest
from nerfstudio.configs.base_config import ViewerConfig
from support import audited_programs
from support.audited_programs import ENDLESS, FILES, NETWORK

from fmgs_nerfstudio.viewer.address import with_our_defaults

ROOT = Path(__file__).parents[1]
TRAIN, EVAL = "nerfstudio.scripts.train:entrypoint", "nerfstudio.scripts.eval:entrypoint"
OURS = "fmgs_nerfstudio.cli"


class Seen(NamedTuple):
    """One process that ran all programs."""

    root: Path
    """Its folders: `work` for what it was told to write, `home`, `temporary`, and `here`, where it started."""
    events: list[list[Any]]
    printed: str
    taken: int
    """Port that something else listened at, and the viewers were told to use."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    root = tmp_path_factory.mktemp("audited")
    for name in ("work", "home", "temporary", "here"):
        (root / name).mkdir()
    capture, out = root / "work" / "capture", root / "work" / "out"
    run = out / "c" / "fmgs-avatar" / "r"
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        port, name = ("--viewer.websocket-port", taken), ("--experiment-name", "c", "--timestamp", "r")
        short = ("--max-num-iterations", 2, "--pipeline.model.schedule.skinning-fit-steps", 10)
        programs = [
            (f"{OURS}.demo:main", (capture, "--preset", "ci")),
            (f"{OURS}.check:main", (capture, "--frames", 4)),
            (TRAIN, ("fmgs-avatar", "--data", capture, "--output-dir", out, *short, *name, *port)),
            (EVAL, ("--load-config", run / "config.yml", "--output-path", root / "work" / "metrics.json")),
            (f"{OURS}.export:main", (out, "--splat-steps", 1)),
            (f"{OURS}.animate:main", (out, "--stop", 0.2)),
            (ENDLESS, ("--load-config", run / "config.yml", *port)),
        ]  # fmt: skip
        words = [(program, [str(word) for word in arguments]) for program, arguments in programs]
        (root / "programs.json").write_text(json.dumps(words))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "TORCH"))}
        environment |= {
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "temporary"),
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # a list of all fonts takes seconds to make
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "dataparsers"))),
        }
        command = [sys.executable, audited_programs.__file__, str(root / "log"), str(root / "programs.json")]
        ended = subprocess.run(
            command, cwd=root / "here", env=environment, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    events = [json.loads(line) for line in (root / "log").read_text().splitlines()]
    assert {program for program, *_ in events} >= {program for program, _ in programs}
    return Seen(root, events, ended.stdout, taken)


def test_no_program_reaches_the_network(seen: Seen) -> None:
    """Binding is looked at below; names are not resolved, either."""
    found = [event for event in seen.events if event[1] in NETWORK and event[1] != "socket.bind"]
    assert [event for event in found if not _is_this_machine(event)] == []


def _is_this_machine(event: list[Any]) -> bool:
    hosts = {part for value in event[2:] for part in (value if isinstance(value, list) else [value])}
    return bool(hosts & {"127.0.0.1", "::1", "localhost"})


def test_nothing_is_written_elsewhere(seen: Seen) -> None:
    """Python tells what it opens; for what libraries write by themselves, the folders are looked at."""
    allowed = (
        seen.root / "work",
        Path(matplotlib.get_cachedir()),
        seen.root / "temporary",  # empty at the end, see below
        Path("/dev"),  # null
    )
    elsewhere = [
        (program, event, path)
        for program, event, path, *_ in seen.events
        if event in FILES and "__pycache__" not in path and not any(Path(path).is_relative_to(each) for each in allowed)
    ]
    assert elsewhere == []
    assert list((seen.root / "home").iterdir()) == []
    assert list((seen.root / "here").iterdir()) == []
    left = [path for path in (seen.root / "temporary").rglob("*") if path.name.partition("_")[0] != "torchinductor"]
    assert left == []  # that one is torchvision's, empty, made on import


def test_a_capture_is_left_as_it_was(seen: Seen) -> None:
    """All but fmgs-demo, which makes it, and fmgs-check, which puts its page there."""
    capture = seen.root / "work" / "capture"
    made = max(path.stat().st_mtime for path in capture.rglob("*") if "check" not in path.parts)
    assert made < (capture / "check" / "sheet.png").stat().st_mtime
    touched = {p for p, event, path, *_ in seen.events if event in FILES and Path(path).is_relative_to(capture)}
    assert touched == {f"{OURS}.check:main"} or touched == {f"{OURS}.demo:main", f"{OURS}.check:main"}


def test_viewers_listen_to_this_machine_alone(seen: Seen) -> None:
    bound = {(program, address[0]) for program, _, address in _events(seen, "socket.bind")}
    assert {host for program, host in bound if program in (TRAIN, ENDLESS)} == {"127.0.0.1"}
    assert [host for _, _, host, _ in _events(seen, "listening")] == ["127.0.0.1"]


def test_messages_have_the_port_of_the_viewer(seen: Seen) -> None:
    """Both viewers found their port taken."""
    (port,) = [port for _, _, _, port in _events(seen, "listening")]
    assert port != seen.taken
    told = f"Port {seen.taken} is taken: the viewer is at http://127.0.0.1:"
    assert seen.printed.count(told) == 2
    assert f"{told}{port}" in seen.printed
    assert "Viewer running locally at: http://127.0.0.1:" in seen.printed  # the host's banner in training
    assert f":{seen.taken}" not in seen.printed


def _events(seen: Seen, name: str) -> list[list[Any]]:
    return [event for event in seen.events if event[1] == name]


@pytest.mark.parametrize("argument", ["--viewer.websocket-host", "--viewer.websocket_host", "--viewer.websocket-host="])
def test_what_the_user_says_holds(argument: str) -> None:
    """ns-viewer's options stand in for the run's; a default cannot be told from the same value when it is given."""
    given = ViewerConfig(websocket_host="0.0.0.0", websocket_port=7010)
    ours = with_our_defaults(given, ["ns-viewer", "--load-config", "config.yml"])
    assert (ours.websocket_host, ours.websocket_port, ours.default_composite_depth) == ("127.0.0.1", 7010, False)
    told = with_our_defaults(given, ["ns-viewer", *f"{argument} 0.0.0.0".replace("= ", "=").split()])
    assert (told.websocket_host, told.default_composite_depth) == ("0.0.0.0", False)
