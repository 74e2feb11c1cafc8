"""Pickles of arrays open; whatever else a pickle names is refused by name and does not run."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch

from fmgs_nerfstudio.unpickle import read_joblib, read_npz, read_numpy_object, read_pickle, read_tensors


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch payload_ran",)


def save_npz(value: Any, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, content=np.array(value, dtype=object))


def save_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def save_npy(value: Any, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(value, dtype=object), allow_pickle=True)


KINDS: dict[str, tuple[Callable[[Any, Path], object], Callable[[Path], Any]]] = {
    "pickle": (save_pickle, read_pickle),
    "npy": (save_npy, read_numpy_object),
    "npz": (save_npz, lambda path: read_npz(path)["content"]),
    "joblib": (joblib.dump, read_joblib),
    "joblib, zlib": (lambda value, path: joblib.dump(value, path, compress=3), read_joblib),
}
PAYLOADS: dict[str, Callable[[], Any]] = {
    "in a value": lambda: {"poses": np.zeros(3), "evil": Payload()},
    "in an array of objects": lambda: {"poses": np.array([Payload(), None], dtype=object)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, payload: str) -> None:
    monkeypatch.chdir(tmp_path)
    save, read = KINDS[kind]
    save(PAYLOADS[payload](), tmp_path / "file.pkl")
    with pytest.raises(ValueError, match=r"file\.pkl.*it names (posix|nt)\.system"):
        read(tmp_path / "file.pkl")
    assert not (tmp_path / "payload_ran").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_numbers_and_containers_come_back(tmp_path: Path, kind: str) -> None:
    tracks: Any = defaultdict(dict)
    tracks[3] = {"pose": np.random.default_rng(0).normal(size=(5, 72)), "ids": np.arange(5), "name": "a"}
    tracks[4] = {
        "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "number": np.float32(2.5), "none": None,
        "objects": np.array([{"x": 1}, "b"], dtype=object), "empty": np.zeros((0, 3)), "point": np.array(3.0),
        "half": np.arange(4, dtype=np.float16), "ordered": OrderedDict(a=1), "mask": np.array([True, False]),
    }  # fmt: skip
    save, read = KINDS[kind]
    save(tracks, tmp_path / "file.pkl")
    back = read(tmp_path / "file.pkl")
    for person, values in tracks.items():
        for key, value in values.items():
            assert np.array_equal(back[person][key], value), (person, key)
    assert back[4]["turned"].dtype == np.float64
    pose = back[3]["pose"]
    pose += 1  # arrays can be written to


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_pickle(tmp_path: Path, protocol: int) -> None:
    content = {"a": np.arange(6.0).reshape(2, 3), "J": scipy.sparse.csc_matrix(np.eye(4)), "n": np.int64(3)}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    back = read_pickle(tmp_path / "file.pkl")
    assert np.array_equal(back["a"], content["a"])
    assert np.array_equal(back["J"].toarray(), np.eye(4))


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_every_compression_of_joblib(tmp_path: Path, compress: Any) -> None:
    joblib.dump({1: {"pose": np.arange(72.0)}}, tmp_path / "file.pkl", compress=compress)
    assert np.array_equal(read_joblib(tmp_path / "file.pkl")[1]["pose"], np.arange(72.0))


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_named(tmp_path: Path, kind: str) -> None:
    save, read = KINDS[kind]
    save({"pose": np.arange(1000.0)}, tmp_path / "file.pkl")
    content = (tmp_path / "file.pkl").read_bytes()
    for length in (0, 3, len(content) // 2):
        (tmp_path / "file.pkl").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"file\.pkl cannot be read"):
            read(tmp_path / "file.pkl")


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_come_back_as_arrays(tmp_path: Path, kind: str) -> None:
    tensor = torch.arange(24.0, dtype=torch.float64).reshape(4, 6)
    values = {"all": tensor, "part": tensor[1:3, ::2].T, "one": torch.tensor(3), "many": torch.ones(1).expand(5)}
    save, read = KINDS[kind]
    save({"values": values}, tmp_path / "file.pkl")
    back = read(tmp_path / "file.pkl")["values"]
    assert all(np.array_equal(back[key], value.numpy()) for key, value in values.items())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_what_torch_saves(tmp_path: Path, dtype: str) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    torch.save({"a": tensor, "b": [tensor[:, 1:], 3, "c"]}, tmp_path / "file.pt")
    back = read_tensors(tmp_path / "file.pt")
    assert np.array_equal(back["a"], tensor.numpy())
    assert back["a"].dtype == dtype
    assert np.array_equal(back["b"][0], tensor[:, 1:].numpy())
    assert back["b"][1:] == [3, "c"]


def test_named_entries_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", a=np.arange(3), b=np.ones(2))
    assert list(read_npz(tmp_path / "file.npz", ["b", "c"])) == ["b"]


def test_tensors_among_arrays(tmp_path: Path) -> None:
    """numpy.save and pickle write tensors with a loader inside that would run anything; here they come as arrays."""
    turned = torch.arange(12.0).reshape(3, 4).T[:, 1:]
    content = {
        "turned": turned,
        "ids": torch.arange(5),
        "seen": torch.tensor([True, False]),
        "own": torch.nn.Parameter(turned),
    }
    save_npy(content, tmp_path / "file.npy")
    joblib.dump(content, tmp_path / "file.pkl")
    for back in (read_numpy_object(tmp_path / "file.npy"), read_joblib(tmp_path / "file.pkl")):
        for name, value in content.items():
            assert np.array_equal(back[name], value.detach().numpy()), name
            assert back[name].dtype == value.detach().numpy().dtype


class PayloadInStorage:
    """A storage's bytes are a pickle of their own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (pickle.dumps(Payload()),)


class BeyondItsValues:
    """A tensor that says it is larger than what is stored."""

    def __reduce__(self) -> tuple[Any, ...]:
        whole, (storage, _, _, _, *rest) = torch.arange(4.0).__reduce_ex__(2)
        return whole, (storage, 0, (1000, 1000), (1000, 1), *rest)


@pytest.mark.parametrize("value", [PayloadInStorage(), BeyondItsValues()])
def test_tensors_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.chdir(tmp_path)
    save_pickle({"pose": value}, tmp_path / "file.pkl")
    with pytest.raises(ValueError, match=r"file\.pkl cannot be read"):
        read_pickle(tmp_path / "file.pkl")
    assert not (tmp_path / "payload_ran").exists()
