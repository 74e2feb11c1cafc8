"""Large arrays that are freed are had again without asking the system for each page."""

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    before, after = map(float, told.split())
    assert after < before / 10 or before < 100  # pages may be of 2 MiB
