"""The viewer in a real browser: a joint is moved in the page, and the picture changes."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer
from support.trainer_runs import config_for
from support.zju_capture import write_capture

from fmgs_nerfstudio.fields.skinning import fit_to_surface
from fmgs_nerfstudio.pipeline import FMGSPipeline

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHOUT_A_CARD = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PATIENCE = 60.0  # seconds; a browser without a card on a busy machine is slow
SHOULDER = 16


@pytest.fixture
def browser() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with playwright.sync_playwright() as driver:
        if found is None and not os.path.exists(driver.chromium.executable_path):
            pytest.skip("needs chromium: the system's, or `playwright install chromium`")
        browser = driver.chromium.launch(executable_path=found, args=WITHOUT_A_CARD)
        yield browser
        browser.close()


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Viewer]:
    """nerfstudio's viewer of an untrained avatar, as ns-viewer starts it."""
    write_capture(tmp_path / "CoreView_1")
    made = config_for(tmp_path / "CoreView_1", tmp_path / "out", steps=1)
    made.pipeline.model.n_vertices = 6890
    pipeline = made.pipeline.setup(device="cpu", test_mode="test").eval()
    fit_to_surface(pipeline.model.skinning, pipeline.model.surface, 60, torch.Generator().manual_seed(0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ViewerConfig(websocket_port=port, websocket_host="127.0.0.1", max_num_display_images=1)
    viewer = Viewer(config, tmp_path / "viewer.log", tmp_path, pipeline, train_lock=threading.Lock())
    viewer.init_scene(pipeline.datamanager.train_dataset, "completed")
    yield viewer
    viewer.viser_server.stop()


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:.0f} s"
        time.sleep(0.2)


def picture(page: Any) -> np.ndarray:
    """What the page shows beside its panel, so small that its resolution does not count."""
    shot = page.screenshot(clip={"x": 0, "y": 60, "width": 560, "height": 480})
    image = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(image, (56, 48), interpolation=cv2.INTER_AREA).astype(float)


def put(page: Any, label: str, value: float | str) -> None:
    """Type into a text field, or into the number field of a slider."""
    row = f"xpath=//label[text()='{label}']/ancestor::div[contains(@class, 'mantine-Flex-root')][1]"
    field = page.locator(row).locator("input:visible")
    field.fill(str(value))
    field.press("Enter")


def test_a_joint_moved_in_the_page_moves_the_avatar(browser: Any, viewer: Viewer) -> None:
    pipeline = viewer.pipeline
    assert isinstance(pipeline, FMGSPipeline)
    state = pipeline.viewer_control.state
    page = browser.new_page(viewport={"width": 900, "height": 900})
    page.goto(f"http://127.0.0.1:{viewer.config.websocket_port}", wait_until="commit")
    page.get_by_label("Poses from").wait_for(timeout=PATIENCE * 1000)
    until(lambda: picture(page).max() > 60, "the avatar is seen")
    seen = [np.zeros((48, 56, 3))]

    def still() -> bool:
        seen.append(picture(page))
        return bool(np.abs(seen[-1] - seen[-2]).max() < 4)

    until(still, "the picture stands still")
    before = picture(page)

    put(page, "Turn z", -120)
    until(lambda: state.source == "joints", "the viewer state hears of it")
    until(lambda: np.abs(picture(page) - before).max() > 40, "the picture changes")
    np.testing.assert_allclose(state.shown.rotation(SHOULDER)[2], np.radians(-120), atol=1e-6)

    # A motion that is not there is told, and the avatar stays alive.
    put(page, "File", "/nowhere/dance.pkl")
    page.get_by_role("button", name="Load").click()
    page.get_by_text("does not exist").wait_for(timeout=PATIENCE * 1000)
    until(still, "the picture stands still")
    moved = picture(page)
    page.get_by_role("button", name="Reset joints").click()
    until(lambda: np.abs(picture(page) - moved).max() > 40, "the picture goes back")
    assert state.shown is state.untouched
