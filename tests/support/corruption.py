"""Ways to corrupt a file: cut, noise; and of a structured one each key away, each array short, of words, with a NaN."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import h5py
import joblib
import numpy as np
import torch
from support.layout_capture import save_object

IMAGES = (".jpg", ".png")


# Files as trees of dictionaries, lists, arrays and numbers -------------------

JOBLIB = ("wham_output.pkl", "demo_*.pkl", "smpl_output_*.pkl")


def _word(text: str) -> int | float | str:
    if text.isdigit():
        return int(text)
    return float(text) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text) else text


def _unwrapped(array: np.ndarray) -> Any:
    return array.item() if array.dtype.hasobject else array


def _node(node: cv2.FileNode) -> Any:
    return [node.at(i).string() for i in range(node.size())] if node.isSeq() else node.mat()


def load(path: Path) -> Any:
    """The content of a structured file; None for any other."""
    if any(fnmatch(path.name, pattern) for pattern in JOBLIB):
        return joblib.load(path)
    match path.suffix:
        case ".npz":
            with np.load(path, allow_pickle=True) as file:
                return {key: _unwrapped(file[key]) for key in file.files}
        case ".npy":
            return _unwrapped(np.load(path, allow_pickle=True))
        case ".pkl":
            return pickle.loads(path.read_bytes())
        case ".json":
            return json.loads(path.read_text())
        case ".pt":
            return torch.load(path)
        case ".hdf5":
            with h5py.File(path) as file:
                return {key: np.asarray(file[key]) for key in file}
        case ".txt":
            return [[_word(word) for word in line.split()] for line in path.read_text().splitlines()]
        case ".yml":
            storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
            return {key: _node(storage.getNode(key)) for key in storage.root().keys()}  # noqa: SIM118 (no dictionary)
        case suffix if suffix in IMAGES:
            return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return None


def save(path: Path, tree: Any) -> None:
    if any(fnmatch(path.name, pattern) for pattern in JOBLIB):
        joblib.dump(tree, path)
        return
    match path.suffix:
        case ".npz":
            arrays = isinstance(tree, dict)
            np.savez(path, **{k: v if isinstance(v, np.ndarray) else np.array(v, object) for k, v in tree.items()}
                     if arrays else {"arr_0": np.array(tree)})  # fmt: skip
        case ".npy":
            np.save(path, tree) if isinstance(tree, np.ndarray) else save_object(path, tree)
        case ".pkl":
            path.write_bytes(pickle.dumps(tree))
        case ".json":
            path.write_text(json.dumps(tree, default=lambda array: array.tolist()))
        case ".pt":
            torch.save(tree, path)
        case ".hdf5":
            with h5py.File(path, "w") as file:
                for key, value in tree.items() if isinstance(tree, dict) else [("list", tree)]:
                    file[key] = value.astype("S") if np.asarray(value).dtype.kind == "U" else value
        case ".txt":
            path.write_text("\n".join(" ".join(str(word) for word in np.atleast_1d(line)) for line in tree) + "\n")
        case ".yml":
            storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
            for key, value in tree.items() if isinstance(tree, dict) else [("list", tree)]:
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    storage.write(key, value)
                    continue
                storage.startWriteStruct(key, cv2.FILE_NODE_SEQ)
                for item in np.ravel(value):
                    storage.write("", str(item))
                storage.endWriteStruct()
            storage.release()
        case _:
            assert cv2.imwrite(str(path), tree)


# Corruptions ----------------------------------------------------------------------

Corruption = tuple[str, Callable[[Path], Any]]


def _leaf(value: Any) -> Iterator[tuple[str, Any]]:
    """Numbers, or an array of them, spoilt."""
    array = np.asarray(value)
    if array.ndim:
        yield "a row too few", array[:-1]
        if array.ndim > 1:
            yield "a column too few", array[..., :-1]
    yield "words", np.full(array.shape, "words") if array.ndim else "words"
    if array.dtype.kind in "iuf" and array.dtype != np.uint8:
        spoilt = array.astype(float)
        spoilt.ravel()[array.size // 2] = np.nan
        yield "a NaN", torch.tensor(spoilt) if isinstance(value, torch.Tensor) else spoilt


def _some(node: dict[Any, Any] | list[Any]) -> list[Any]:
    """Keys to go into: of many alike one."""
    items = dict(node) if isinstance(node, dict) else dict(enumerate(node))
    kinds: dict[Any, Any] = {}
    for key, value in items.items():
        alike = type(value), tuple(value) if isinstance(value, dict) else np.shape(value)
        kinds[(key,) if isinstance(key, str) and len(items) < 9 and not isinstance(value, dict) else alike] = key
    return list(kinds.values())


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, int | float) or _is_numbers(item) for item in value)
    return isinstance(value, np.ndarray | np.generic | torch.Tensor | int | float)


def spoilt(node: Any) -> Iterator[tuple[str, Any]]:
    """The tree with each key removed, each array too short, of words, or with a NaN."""
    if _is_numbers(node):
        yield from _leaf(node)
    elif isinstance(node, dict | list):
        if isinstance(node, list) and node:
            yield "a row too few", node[:-1]
        for key in _some(node):
            if isinstance(node, dict):
                yield f"no {key}", {k: v for k, v in node.items() if k != key}
            for label, value in spoilt(node[key]):
                other = copy.copy(node)
                other[key] = value
                yield f"{key}: {label}", other


def corruptions(path: Path) -> Iterator[Corruption]:
    content, rng = path.read_bytes(), np.random.default_rng(0)
    yield "missing", Path.unlink
    yield "empty", lambda p: p.write_bytes(b"")
    yield "half", lambda p: p.write_bytes(content[: len(content) // 2])
    yield "noise", lambda p: p.write_bytes(rng.bytes(len(content)))
    tree = load(path)
    if path.suffix in IMAGES:
        yield "a row too few", lambda p: save(p, tree[:-1])
    elif tree is not None:
        yield "a list", lambda p: save(p, [1, 2])
        for label, value in spoilt(tree):
            yield label, lambda p, value=value: save(p, value)
