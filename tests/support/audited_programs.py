"""Run as a program, since an audit hook stays until its process ends:

    python audited_programs.py LOG PROGRAMS

PROGRAMS is JSON, a list of [module:function, arguments], run one after the other as on the command line. LOG gets a
JSON list for each event of interest: [program, event, argument, ...]. A viewer that does not end by itself is left when
it listens, after [program, "listening", host, port] for each of the process' sockets.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
FILES = ("open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate")
ENDLESS = "nerfstudio.scripts.viewer.run_viewer:entrypoint"


class Audit:
    """What this process does, line by line."""

    def __init__(self, log: str) -> None:
        self.file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.program = ""
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in NETWORK:
            self.write(event, *(each for each in arguments if not isinstance(each, socket.socket)))
        elif event in FILES and not (event == "open" and _reads(*arguments)):
            self.write(event, *arguments)

    def write(self, event: str, *arguments: object) -> None:
        line = json.dumps([self.program, event, *arguments], default=_text)
        os.write(self.file, line.encode() + b"\n")


def _reads(path: object, _mode: str | None, flags: int) -> bool:
    return isinstance(path, int) or not flags & WRITES


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else repr(value)


def listening() -> list[tuple[str, int]]:
    """Where this process can be reached."""
    import psutil

    sockets = psutil.Process().net_connections(kind="inet")
    return [(str(each.laddr[0]), int(each.laddr[1])) for each in sockets if each.status == psutil.CONN_LISTEN]


def _viewers() -> int:
    return sum(thread.name == "fmgs-viewer" for thread in threading.enumerate())


def run(program: str, arguments: list[str]) -> None:
    """As its console script does. An error ends this process."""
    module, name = program.split(":")
    sys.argv = [program, *arguments]
    try:
        getattr(importlib.import_module(module), name)()
    except SystemExit as end:
        if end.code:
            raise


def main() -> None:
    audit = Audit(sys.argv[1])
    for program, arguments in json.loads(Path(sys.argv[2]).read_text()):
        audit.program = program
        if program != ENDLESS:
            run(program, arguments)
            continue
        before, viewers = set(listening()), _viewers()
        thread = threading.Thread(target=run, args=(program, arguments), daemon=True)
        thread.start()
        while thread.is_alive() and _viewers() == viewers:
            time.sleep(0.1)
        for host, port in set(listening()) - before:
            audit.write("listening", host, port)
    sys.stdout.flush()
    os._exit(0)  # with the viewer's threads


if __name__ == "__main__":
    main()
