"""How commands end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fmgs_nerfstudio.cli.errors import in_one_line
from fmgs_nerfstudio.files import atomic_path


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (KeyError("no such key"), 1, "fmgs-x: 'no such key'"),
        (FileNotFoundError("a.npz is not there"), 1, "fmgs-x: a.npz is not there"),
        (KeyboardInterrupt(), 130, "fmgs-x: interrupted; nothing was written"),
    ],
)
def test_expected_errors_are_one_line_and_a_status(
    raised: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, in_one_line("fmgs-x", KeyError, interrupted="nothing was written"):
        raise raised
    assert stop.value.code == status
    assert capsys.readouterr().err == line + "\n"


def test_others_pass() -> None:
    with pytest.raises(ZeroDivisionError), in_one_line("fmgs-x", KeyError, interrupted=""):
        _ = 1 / 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_in_order(
    number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What was being written is tidied away, and the handlers of before are back."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background

    def command() -> None:
        with in_one_line("fmgs-x", interrupted="nothing was written"), atomic_path(tmp_path / "file"):
            os.kill(os.getpid(), number)
            time.sleep(10)

    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == status
    assert capsys.readouterr().err == "fmgs-x: interrupted; nothing was written\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
