"""Weights: where they are looked for, what is asked before a download, and what is said when there is none."""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fmgs_nerfstudio.priors.checkpoints import CheckpointError, Weights, find_weights
from fmgs_nerfstudio.priors.estimators.base import EstimatorError
from fmgs_nerfstudio.priors.estimators.pretrained import import_transformers

ONE = Weights("owner/seg-1b", ("net_*_torchscript.pt2",), "CC BY-NC 4.0", "4.7 GB")
MANY = Weights("owner/depth-hf", ("config.json", "model*.safetensors"), "MIT")
FILES = {"net_7_torchscript.pt2": b"weights" * 1000, "other.bin": b"x", "config.json": b"{}", "model.safetensors": b"s"}


def refuse(what: str) -> bool:
    raise AssertionError(f"asked to download {what}")


def test_a_file_a_folder_or_a_tree(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "net_7_torchscript.pt2"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    for place in (path, path.parent, tmp_path):
        assert find_weights(ONE, str(place), refuse) == path
    own = tmp_path / "anything.pt2"
    own.write_bytes(b"x")
    assert find_weights(ONE, str(own), refuse) == own  # whoever names a file means it
    with pytest.raises(CheckpointError, match=r"anything\.pt2 is a file; expected a folder"):
        find_weights(MANY, str(own), refuse)


def test_a_folder_per_repository(tmp_path: Path) -> None:
    for name in ("depth-hf", "another"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model-00001-of-00001.safetensors").write_text("")
    assert find_weights(MANY, str(tmp_path), refuse) == tmp_path / "depth-hf"
    assert find_weights(MANY, str(tmp_path / "another"), refuse) == tmp_path / "another"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(
        CheckpointError, match=r"no net_\*_torchscript\.pt2 in it, in seg-1b/ or below;\n  found readme"
    ):
        find_weights(ONE, str(tmp_path), refuse)
    with pytest.raises(CheckpointError, match="no such file or folder, and no repository"):
        find_weights(ONE, str(tmp_path / "nowhere"), refuse)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def none(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("huggingface_hub", "transformers"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", none)
    with pytest.raises(CheckpointError, match=r"pip install 'fmgs-nerfstudio\[priors\]'"):
        find_weights(ONE, None, refuse)
    with pytest.raises(EstimatorError, match=r"pip install 'fmgs-nerfstudio\[priors\]'"):
        import_transformers()
    # a folder needs nothing
    (tmp_path / "net_7_torchscript.pt2").write_bytes(b"x")
    assert find_weights(ONE, str(tmp_path), refuse)


def test_an_old_transformers_is_named() -> None:
    transformers = pytest.importorskip("transformers", reason="the extra 'priors' is not installed")
    with pytest.raises(EstimatorError, match=rf"transformers {transformers.__version__} has no Sapiens9.*5\.10"):
        import_transformers("Sapiens9")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download of one small repository needs."""

    cut = False

    def _answer(self, body: bool) -> None:
        file = FILES.get(self.path.split("/")[-1])
        if self.path.startswith("/api/models/owner/"):
            import json

            siblings = [{"rfilename": name} for name in FILES]
            tree = [{"type": "file", "path": n, "size": len(c), "oid": f"{len(c):040x}"} for n, c in FILES.items()]
            answer = tree if "/tree/" in self.path else {"id": "owner/seg-1b", "sha": "0" * 40, "siblings": siblings}
            file, kind = json.dumps(answer).encode(), "application/json"
        elif "/resolve/" in self.path and file is not None:
            kind = "application/octet-stream"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in (("Content-Type", kind), ("Content-Length", len(file)), ("ETag", f'"{len(file):040x}"'),
                            ("X-Repo-Commit", "0" * 40)):  # fmt: skip
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(file[: len(file) // 2] if Hub.cut and "resolve" in self.path else file)
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on this machine with an empty cache; its settings are read at import."""
    pytest.importorskip("huggingface_hub", reason="the extra 'priors' is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_download_is_asked_for_once() -> None:
    with pytest.raises(CheckpointError) as error:
        find_weights(ONE, None, lambda what: False)
    for said in ("owner/seg-1b", "CC BY-NC 4.0", "4.7 GB", "--download", "https://huggingface.co/owner/seg-1b"):
        assert said in str(error.value)
    asked: list[str] = []
    path = find_weights(ONE, None, lambda what: not asked.append(what))
    assert asked == ["owner/seg-1b: net_*_torchscript.pt2 (4.7 GB), licence: CC BY-NC 4.0"]
    assert path.read_bytes() == FILES["net_7_torchscript.pt2"]
    assert not (path.parent / "other.bin").exists()
    assert find_weights(ONE, None, refuse) == path  # from the cache


@pytest.mark.usefixtures("hub")
def test_another_repository_has_another_licence() -> None:
    asked: list[str] = []
    folder = find_weights(MANY, "owner/mine", lambda what: not asked.append(what))
    assert (folder / "config.json").is_file()
    assert asked == ["owner/mine: config.json, model*.safetensors, licence: see https://huggingface.co/owner/mine"]


@pytest.mark.usefixtures("hub")
def test_a_repository_without_the_file_is_named() -> None:
    absent = Weights("owner/seg-1b", ("nothing_*.pt2",), "MIT")
    with pytest.raises(CheckpointError, match=r"lacks nothing_\*\.pt2"):
        find_weights(absent, None, lambda what: True)


@pytest.mark.usefixtures("hub")
def test_no_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as error:
        find_weights(ONE, None, lambda what: True)
    for said in ("Downloading owner/seg-1b failed", "net_*_torchscript.pt2", "FOLDER/seg-1b", "--checkpoint FOLDER"):
        assert said in str(error.value)


@pytest.mark.usefixtures("hub")
def test_a_broken_download_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "cut", True)
    with pytest.raises(CheckpointError, match="Downloading owner/seg-1b failed"):
        find_weights(ONE, None, lambda what: True)
