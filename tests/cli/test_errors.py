"""How commands end."""

from __future__ import annotations

import pytest

from fmgs_nerfstudio.cli.errors import in_one_line


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
