"""Kokoro-82M on a GPU: its int8 ONNX graph run by torch, operator by operator, with the weights as floats.

ONNX Runtime runs the graph on a processor alone, at about the speed of speech. Activations are not rounded to 8 bits here,
so the result is a little nearer to the original network than that of ONNX Runtime.

Whole numbers (shapes, indices) stay on the processor, so that the GPU is waited for a few times a sentence, not at every operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import NodeProto, numpy_helper
from torch import Tensor

TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}
Operator = Callable[["Graph", NodeProto, list[Any], dict[str, Any]], Any]
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Registers a function for operators of these names: (graph, node, inputs, attributes) -> output, or a tuple of them."""

    def add(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
        return function

    return add


class Graph:
    """An ONNX graph ready to run.

    Args:
        model: the file.
        device: where floats live.

    Raises `ValueError` if the graph holds an operator that is not known here.
    """

    def __init__(self, model: Path, device: torch.device) -> None:
        graph = onnx.load(str(model)).graph
        self.device = device
        self.nodes = [(node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}) for node in graph.node]
        unknown = sorted({node.op_type for node, _ in self.nodes} - set(OPERATORS))
        if unknown:
            raise ValueError(f"{model}: operators that are not known here: {', '.join(unknown)}")
        self.outputs = [output.name for output in graph.output]
        self.constants: dict[str, Tensor] = {tensor.name: self.tensor(tensor) for tensor in graph.initializer}
        self.weights: dict[str, Any] = {}
        """What an operator keeps from one run to the next, by the name of its first output."""
        last = {name: number for number, (node, _) in enumerate(self.nodes) for name in node.input}
        self.done: list[list[str]] = [[] for _ in self.nodes]
        for name, number in last.items():
            if name not in self.constants and name not in self.outputs:
                self.done[number].append(name)

    def tensor(self, tensor: onnx.TensorProto) -> Tensor:
        """A constant where it belongs: floats on the device, whole numbers on the processor."""
        value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        return value.to(self.device) if value.is_floating_point() else value

    @torch.inference_mode()
    def run(self, feeds: dict[str, Tensor]) -> list[Tensor]:
        """The graph's outputs."""
        values: dict[str, Any] = {**self.constants}
        for name, value in feeds.items():
            values[name] = value.to(self.device) if value.is_floating_point() else value
        for (node, attributes), done in zip(self.nodes, self.done, strict=True):
            inputs = [values[name] if name else None for name in node.input]
            made = OPERATORS[node.op_type](self, node, inputs, attributes)
            for name, value in zip(node.output, made if isinstance(made, tuple) else (made,), strict=False):
                if name:
                    values[name] = value
            for name in done:
                values.pop(name, None)
        return [values[name] for name in self.outputs]


def together(*values: Tensor) -> Sequence[Tensor]:
    """All on the GPU if one that is more than a number is."""
    devices = {value.device for value in values if value.ndim}
    if len(devices) < 2:
        return values
    device = next(device for device in devices if device.type != "cpu")
    return [value.to(device) for value in values]


def numbers(value: Tensor) -> list[int]:
    """A small tensor of whole numbers as a list."""
    return [int(v) for v in value.reshape(-1).tolist()]


def elementwise(name: str, function: Callable[..., Tensor]) -> None:
    """An operator that is one torch function of its inputs."""
    OPERATORS[name] = lambda graph, node, inputs, attributes: function(*together(*(i for i in inputs if i is not None)))


def arctangent(value: Tensor) -> Tensor:
    """Of a quotient; 0 / 0 (a phase in silence) is 0."""
    return torch.atan(value).nan_to_num(0.0)


def divide(one: Tensor, other: Tensor) -> Tensor:
    """Division; of whole numbers, towards zero."""
    return one / other if one.is_floating_point() else torch.div(one, other, rounding_mode="trunc")


for _name, _function in {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": divide, "Pow": torch.pow, "MatMul": torch.matmul, "Sqrt": torch.sqrt,
    "Floor": torch.floor, "Sin": torch.sin, "Cos": torch.cos, "Exp": torch.exp, "Tanh": torch.tanh, "Atan": arctangent, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "And": torch.logical_and,
    "Where": torch.where,
}.items():  # fmt: skip
    elementwise(_name, _function)


@operator("Cast")
def _cast(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value = inputs[0]
    made: Tensor = value if value.dtype == TYPES[attributes["to"]] else value.to(TYPES[attributes["to"]])
    # a float made from whole numbers belongs to the floats
    return made.to(graph.device) if made.is_floating_point() and made.ndim else made


@operator("Shape")
def _shape(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return torch.tensor(inputs[0].shape, dtype=torch.int64)


@operator("Reshape")
def _reshape(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value, wanted = inputs[0], numbers(inputs[1])
    return value.reshape([value.shape[k] if size == 0 else size for k, size in enumerate(wanted)])  # type: ignore[no-any-return]


@operator("Unsqueeze")
def _unsqueeze(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value: Tensor = inputs[0]
    axes = numbers(inputs[1])
    for axis in sorted(axis + value.ndim + len(axes) if axis < 0 else axis for axis in axes):
        value = value.unsqueeze(axis)
    return value


@operator("Squeeze")
def _squeeze(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].squeeze(tuple(numbers(inputs[1])))  # type: ignore[no-any-return]


@operator("Transpose")
def _transpose(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].permute(*attributes["perm"])  # type: ignore[no-any-return]


@operator("Concat")
def _concat(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return torch.cat(list(together(*inputs)), attributes["axis"])


@operator("Split")
def _split(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(inputs[0].split(numbers(inputs[1]), axis))
    return tuple(inputs[0].chunk(len(node.output), axis))


@operator("Slice")
def _slice(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value: Tensor = inputs[0]
    starts, ends = numbers(inputs[1]), numbers(inputs[2])
    axes = numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(value.shape[axis])[start:end:step]
        if step > 0:
            value = value.narrow(axis, places.start, max(0, places.stop - places.start))
            value = value if step == 1 else value.index_select(axis, torch.arange(0, value.shape[axis], step, device=value.device))
        else:
            value = value.index_select(axis, torch.tensor(list(places), device=value.device))
    return value


@operator("Gather")
def _gather(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value, index = inputs
    axis = attributes.get("axis", 0) % value.ndim
    index = torch.where(index < 0, index + value.shape[axis], index).to(value.device)
    made: Tensor = value.index_select(axis, index.reshape(-1))
    return made.reshape([*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]])


@operator("Expand")
def _expand(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].expand(torch.broadcast_shapes(inputs[0].shape, tuple(numbers(inputs[1]))))  # type: ignore[no-any-return]


@operator("ConstantOfShape")
def _constant(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value = graph.tensor(attributes["value"])
    return value.reshape(()).expand(numbers(inputs[0])).clone()


@operator("Range")
def _range(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return torch.arange(*(value.item() for value in inputs), dtype=inputs[0].dtype)


@operator("CumSum")
def _cumsum(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].cumsum(int(inputs[1]), dtype=inputs[0].dtype)  # type: ignore[no-any-return]


@operator("NonZero")
def _nonzero(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return torch.nonzero(inputs[0]).t()


@operator("ScatterND")
def _scatter(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value, index, updates = inputs
    made: Tensor = value.clone()
    made[tuple(index.to(value.device).unbind(-1))] = updates.to(value.device)
    return made


@operator("ReduceMean")
def _mean(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].mean(numbers(inputs[1]), keepdim=bool(attributes.get("keepdims", 1)))  # type: ignore[no-any-return]


@operator("ReduceSum")
def _sum(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].sum(numbers(inputs[1]), keepdim=bool(attributes.get("keepdims", 1)))  # type: ignore[no-any-return]


@operator("Clip")
def _clip(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    low, high = (None if i >= len(inputs) or inputs[i] is None else float(inputs[i]) for i in (1, 2))
    return inputs[0].clamp(low, high)  # type: ignore[no-any-return]


@operator("LeakyRelu")
def _leaky(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return F.leaky_relu(inputs[0], attributes["alpha"])


@operator("Softmax")
def _softmax(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return inputs[0].softmax(attributes["axis"])  # type: ignore[no-any-return]


@operator("FastGelu")
def _gelu(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return F.gelu(inputs[0] + inputs[1], approximate="tanh")


@operator("LayerNormalization")
def _norm(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return F.layer_norm(inputs[0], inputs[1].shape, inputs[1], inputs[2], attributes["epsilon"])


@operator("SkipLayerNormalization")
def _skip_norm(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return F.layer_norm(inputs[0] + inputs[1], inputs[2].shape, inputs[2], inputs[3], attributes["epsilon"])


@operator("FusedMatMul")
def _fused(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    one, other = inputs
    one = one.transpose(-1, -2) if attributes.get("transA") else one
    other = other.transpose(-1, -2) if attributes.get("transB") else other
    return torch.matmul(one, other) * attributes.get("alpha", 1.0)


@operator("Resize")
def _resize(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    scale = tuple(float(v) for v in inputs[2].tolist()[2:])
    if attributes["mode"] == b"nearest":
        return F.interpolate(inputs[0], scale_factor=scale, mode="nearest", recompute_scale_factor=False)
    return F.interpolate(inputs[0], scale_factor=scale, mode="linear", align_corners=False, recompute_scale_factor=False)


@operator("Pad")
def _pad(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value: Tensor = inputs[0]
    sizes = numbers(inputs[1])
    rank = len(sizes) // 2
    mode = attributes["mode"].decode()
    if any(sizes[k] or sizes[k + rank] for k in range(rank - 1)):
        raise ValueError(f"{node.name}: pads more than the last axis")
    shape = value.shape
    padded = F.pad(value.reshape(1, -1, shape[-1]), (sizes[rank - 1], sizes[-1]), mode=mode)
    return padded.reshape(*shape[:-1], padded.shape[-1])


@operator("STFT")
def _stft(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    signal = inputs[0].reshape(inputs[0].shape[0], -1)
    window = inputs[2]
    return torch.view_as_real(torch.fft.rfft(signal.unfold(-1, len(window), int(inputs[1])) * window))


@operator("DynamicQuantizeLinear")
def _as_it_is(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    return inputs[0], torch.tensor(1.0), torch.tensor(0)


@operator("DequantizeLinear")
def _dequantize(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    value, scale, zero = inputs
    return (value.to(graph.device).float() - zero.to(graph.device).float()) * scale.to(graph.device)  # type: ignore[no-any-return]


def _kept(graph: Graph, node: NodeProto, make: Callable[[], Any]) -> Any:
    key = node.output[0]
    if key not in graph.weights:
        graph.weights[key] = make()
    return graph.weights[key]


def _weight(graph: Graph, node: NodeProto, inputs: list[Any]) -> Tensor:
    """A quantised weight as the floats that its scale has still to multiply."""
    made: Tensor = _kept(graph, node, lambda: (inputs[1].float() - inputs[3].float()).to(graph.device))
    return made


@operator("MatMulInteger")
def _matmul(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return torch.matmul(inputs[0], _weight(graph, node, inputs))


def _convolve(value: Tensor, weight: Tensor, bias: Tensor | None, attributes: dict[str, Any]) -> Tensor:
    pads, strides, dilations = attributes["pads"], attributes["strides"], attributes["dilations"]
    half = len(pads) // 2
    if list(pads[:half]) != list(pads[half:]) or half != 1:
        raise ValueError(f"a convolution with pads {list(pads)}")
    return F.conv1d(value, weight, bias, strides[0], pads[0], dilations[0], attributes["group"])


@operator("ConvInteger")
def _conv_integer(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return _convolve(inputs[0], _weight(graph, node, inputs), None, attributes)


@operator("Conv")
def _conv(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    return _convolve(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None, attributes)


@operator("ConvTranspose")
def _conv_transpose(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    more = attributes.get("output_padding", [0])[0]
    stride, pad, dilation = attributes["strides"][0], attributes["pads"][0], attributes["dilations"][0]
    return F.conv_transpose1d(inputs[0], inputs[1], bias, stride, pad, more, attributes["group"], dilation)


@operator("DynamicQuantizeLSTM")
def _lstm(graph: Graph, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> tuple[Tensor, ...]:
    size = attributes["hidden_size"]

    def build() -> torch.nn.LSTM:
        value, recurrent, bias = inputs[1], inputs[2], inputs[3]
        one, other = (
            (w.float() - z.float().reshape(-1, *[1] * 2)).to(graph.device) * s.reshape(len(w), 1, -1)
            for w, s, z in ((value, inputs[8], inputs[9]), (recurrent, inputs[10], inputs[11]))
        )
        module = torch.nn.LSTM(value.shape[1], size, bidirectional=True).to(graph.device)
        for k, suffix in enumerate(("", "_reverse")):
            for name, weight in (("weight_ih", one[k].t()), ("weight_hh", other[k].t())):
                getattr(module, f"{name}_l0{suffix}").data.copy_(_gates(weight, size))
            for name, part in (("bias_ih", bias[k, : 4 * size]), ("bias_hh", bias[k, 4 * size :])):
                getattr(module, f"{name}_l0{suffix}").data.copy_(_gates(part, size))
        module.flatten_parameters()
        return module

    module = _kept(graph, node, build)
    out, (hidden, cell) = module(inputs[0])
    return out.view(*out.shape[:2], 2, size).transpose(1, 2), hidden, cell


def _gates(weight: Tensor, size: int) -> Tensor:
    """ONNX's order (input, output, forget, cell) as torch's (input, forget, cell, output)."""
    first, out, forget, cell = weight.split(size)
    return torch.cat([first, forget, cell, out])
