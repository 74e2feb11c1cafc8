"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fmgs_nerfstudio.body import BodyModel

ASSET = Path(__file__).parent.parent / "fmgs_nerfstudio" / "demo" / "assets" / "body_demo.npz"


@pytest.fixture(scope="session")
def body() -> BodyModel:
    """The embedded licence-free body."""
    return BodyModel.load(ASSET)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a card say why they are skipped."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA card; this machine has none"))
