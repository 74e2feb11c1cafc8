"""Make `person_detection.onnx` again: MediaPipe's pose_detection.tflite in a form that OpenCV reads.

    pip install ai-edge-litert onnx     # into an environment of their own
    python scripts/make_person_detector.py pose_detection.tflite person_detection.onnx

Sparse weights are written out in full, and operators as ONNX has them; weights stay in half precision. See NOTICE.md
beside the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as tfl
from onnx import TensorProto, helper, numpy_helper

_NAMES = {number: name for name, number in vars(tfl.BuiltinOperator).items() if isinstance(number, int)}
_DTYPES = {tfl.TensorType.FLOAT32: np.float32, tfl.TensorType.FLOAT16: np.float16, tfl.TensorType.INT32: np.int32}
_LINEAR, _RELU6 = 0, 3


def dense(shape: list[int], sparsity: Any, values: Any) -> Any:
    """The values of a tree, whose levels list all indices (format 0) or some of them (1), with zeros between."""
    assert not len(sparsity.blockMap if sparsity.blockMap is not None else ())
    order = [int(axis) for axis in sparsity.traversalOrder]
    places = np.zeros((1, 0), int)
    for level in sparsity.dimMetadata:
        if level.format == 0:
            index = np.tile(np.arange(level.denseSize), len(places))
            repeats = np.full(len(places), level.denseSize)
        else:
            index = np.asarray(level.arrayIndices.values, int)
            repeats = np.diff(np.asarray(level.arraySegments.values, int))
        places = np.c_[np.repeat(places, repeats, 0), index]
    out = np.zeros([shape[axis] for axis in order], values.dtype)
    out[tuple(places.T)] = values[: len(places)]
    return np.ascontiguousarray(out.transpose(np.argsort(order)))


class Converter:
    """Of one TFLite graph, rows, columns and channels last, to ONNX, channels first."""

    def __init__(self, source: bytes) -> None:
        model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(source, 0))
        self.graph = model.subgraphs[0]
        self.codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
        self.constants: dict[int, Any] = {}
        self.nodes: list[Any] = []
        self.stored: dict[str, Any] = {}
        for i, tensor in enumerate(self.graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                values, shape = np.frombuffer(bytes(data), _DTYPES[tensor.type]), [int(n) for n in tensor.shape]
                self.constants[i] = dense(shape, tensor.sparsity, values) if tensor.sparsity else values.reshape(shape)

    def model(self) -> Any:
        """The whole network."""
        for operator in self.graph.operators:
            self._convert(operator)
        value, graph = helper.make_tensor_value_info, self.graph
        ins = [value(f"t{graph.inputs[0]}", TensorProto.FLOAT, [1, 3, 224, 224])]
        outs = [value(f"t{i}", TensorProto.FLOAT, graph.tensors[i].shape.tolist()) for i in graph.outputs]
        whole = helper.make_graph(self.nodes, "pose_detection", ins, outs, list(self.stored.values()))
        return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    def _store(self, name: str, values: Any, dtype: Any) -> str:
        self.stored[name] = numpy_helper.from_array(np.ascontiguousarray(values, dtype), name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def _convert(self, operator: Any) -> None:
        kind, options = _NAMES[self.codes[operator.opcodeIndex]], operator.builtinOptions
        inputs, out = [int(i) for i in operator.inputs], int(operator.outputs[0])
        x, y = f"t{inputs[0]}", f"t{out}"
        activation = getattr(options, "fusedActivationFunction", _LINEAR)
        assert activation in (_LINEAR, _RELU6), activation
        raw = f"{y}_raw" if activation else y
        if kind in ("DEQUANTIZE", "DENSIFY"):
            self.constants[out] = self.constants[inputs[0]]
        elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            self._convolution(inputs, raw, options, deep=kind.startswith("DEPTHWISE"))
        elif kind == "ADD":
            self._node("Add", [x, f"t{inputs[1]}"], raw)
        elif kind == "PAD":
            before, after = self.constants[inputs[1]].T[:, [0, 3, 1, 2]].tolist()
            self._node("Pad", [x, self._store(f"{y}_pads", before + after, np.int64)], raw, mode="constant")
        elif kind == "DEPTH_TO_SPACE":
            self._node("DepthToSpace", [x], raw, blocksize=options.blockSize, mode="DCR")
        elif kind == "RESIZE_BILINEAR":
            assert options.halfPixelCenters
            assert not options.alignCorners
            shapes = self.graph.tensors[out].shape, self.graph.tensors[inputs[0]].shape
            scale = self._store(f"{y}_scale", [1, 1, *(shapes[0] / shapes[1])[1:3]], np.float32)
            self._node("Resize", [x, "", scale], raw, mode="linear", coordinate_transformation_mode="half_pixel")
        elif kind == "RESHAPE":
            self._node("Transpose", [x], f"{y}_last", perm=[0, 2, 3, 1])
            shape = self._store(f"{y}_shape", self.graph.tensors[out].shape, np.int64)
            self._node("Reshape", [f"{y}_last", shape], raw)
        elif kind == "CONCATENATION":
            self._node("Concat", [f"t{i}" for i in inputs], raw, axis=options.axis)
        else:
            raise ValueError(f"no rule for {kind}")
        if activation:
            bounds = [self._store("zero", 0, np.float32), self._store("six", 6, np.float32)]
            self._node("Clip", [raw, *bounds], y)

    def _convolution(self, inputs: list[int], output: str, options: Any, deep: bool) -> None:
        kernel, stride = self.constants[inputs[1]], (options.strideH, options.strideW)
        assert options.dilationHFactor == options.dilationWFactor == 1
        size, height = kernel.shape[1:3], int(self.graph.tensors[inputs[0]].shape[1])
        same = options.padding == tfl.Padding.SAME
        missing = max((-(-height // stride[0]) - 1) * stride[0] + size[0] - height, 0) if same else 0
        first = [missing // 2] * 2
        weight = self._store(f"w{inputs[1]}", kernel.transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2)), np.float16)
        bias = self._store(f"w{inputs[2]}", self.constants[inputs[2]], np.float16)
        self._node(
            "Conv", [f"t{inputs[0]}", weight, bias], output, kernel_shape=list(size), strides=list(stride),
            pads=[*first, *(missing - n for n in first)], group=kernel.shape[3] if deep else 1,
        )  # fmt: skip


if __name__ == "__main__":
    onnx.save(Converter(Path(sys.argv[1]).read_bytes()).model(), sys.argv[2])
