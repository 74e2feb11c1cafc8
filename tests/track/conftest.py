"""What tests of tracking share."""

from __future__ import annotations

from collections.abc import Generator

import cv2
import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Generator[None]:
    """Threads of OpenCV that wait for each other on busy cores cost more than they save."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)
