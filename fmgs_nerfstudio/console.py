"""What is said on the console: names that strangers gave are text there, not markup and not commands of a terminal."""

from __future__ import annotations

from nerfstudio.utils.rich_utils import CONSOLE
from rich.text import Text

_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` with what moves the cursor, or no encoding has, written as its number."""
    return text.encode(errors="backslashreplace").decode().translate(_CONTROLS)


def log(message: str) -> None:
    """A line, with the time, on nerfstudio's console."""
    CONSOLE.log(Text(printable(message)), _stack_offset=2)  # the line that says so is its caller's
