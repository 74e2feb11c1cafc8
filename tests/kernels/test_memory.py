"""Large arrays that are freed are had again without asking the system for each page, until they are given back."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from fmgs_nerfstudio.kernels.memory import keep_freed_memory

def pages_asked_for():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytearray(b"x") * (40 << 20)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5

first = pages_asked_for()
keep_freed_memory()
bytearray(b"x") * (40 << 20)
print(first, pages_asked_for())
"""


GIVING_BACK = """
from pathlib import Path
from fmgs_nerfstudio.kernels.memory import give_back_freed_memory, keep_freed_memory

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

keep_freed_memory()
pieces = [bytearray(b"x") * (1 << 20) for _ in range(200)]
before, last = megabytes(), pieces.pop()  # what lies behind is in use, so that the end of the heap stays
pieces.clear()
kept = megabytes()
give_back_freed_memory()
print(before, kept, megabytes())
"""

in_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")


def run(program: str) -> list[float]:
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return [float(number) for number in told.split()]


@in_glibc
def test_kept_memory_is_given_back() -> None:
    before, kept, after = run(GIVING_BACK)
    assert kept > before - 20
    assert after < before - 150


@in_glibc
def test_freed_memory_is_kept() -> None:
    before, after = run(PROGRAM)
    assert after < before / 10 or before < 100  # pages may be of 2 MiB
