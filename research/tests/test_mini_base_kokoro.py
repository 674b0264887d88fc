"""The operators that run Kokoro on a GPU give what ONNX Runtime gives."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ValueInfoProto, helper, numpy_helper, save

pytestmark = pytest.mark.slow

random = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return random.standard_normal(shape).astype(np.float32)


def whole(*values: int) -> Any:
    return np.array(values, np.int64)


def quantised(*shape: int) -> Any:
    return random.integers(0, 255, shape).astype(np.uint8)


CONV = {"pads": [2, 2], "strides": [1], "dilations": [2], "group": 1, "kernel_shape": [3], "auto_pad": "NOTSET"}
UP = {"pads": [1, 1], "strides": [2], "dilations": [1], "group": 6, "kernel_shape": [3], "output_padding": [1]}
ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
HALF = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
CASES: dict[str, tuple[str, list[Any], dict[str, Any], int]] = {
    "slice": ("Slice", [floats(2, 9, 4), whole(1), whole(-1), whole(1), whole(3)], {}, 1),
    "slice backwards": ("Slice", [floats(2, 9), whole(-1), whole(-(2**31)), whole(1), whole(-2)], {}, 1),
    "gather": ("Gather", [floats(5, 7), whole(0, -1, 3)], {"axis": 1}, 1),
    "gather a number": ("Gather", [floats(5, 7), np.array(2)], {"axis": 0}, 1),
    "unsqueeze": ("Unsqueeze", [floats(3, 4), whole(0, -1)], {}, 1),
    "squeeze": ("Squeeze", [floats(1, 3, 1), whole(0, 2)], {}, 1),
    "reshape": ("Reshape", [floats(2, 3, 4), whole(0, -1)], {}, 1),
    "expand": ("Expand", [floats(3, 1), whole(2, 1, 4)], {}, 1),
    "split": ("Split", [floats(2, 6), whole(1, 5)], {"axis": 1}, 2),
    "divide whole numbers": ("Div", [whole(7, -7), whole(2, 2)], {}, 1),
    "cumulate": ("CumSum", [floats(2, 5), np.array(1)], {}, 1),
    "mean": ("ReduceMean", [floats(2, 3, 4), whole(1)], {"keepdims": 1}, 1),
    "sum": ("ReduceSum", [floats(2, 3, 4), whole(-1)], {"keepdims": 0}, 1),
    "convolve": ("Conv", [floats(1, 4, 20), floats(6, 4, 3), floats(6)], CONV, 1),
    "convolve upwards": ("ConvTranspose", [floats(1, 6, 10), floats(6, 1, 3), floats(6)], UP, 1),
    "repeat": ("Resize", [floats(1, 2, 7), np.array([], np.float32), np.array([1, 1, 2], np.float32)], ASYMMETRIC, 1),
    "shrink": ("Resize", [floats(1, 2, 60), np.array([], np.float32), np.array([1, 1, 1 / 5], np.float32)], HALF, 1),
    "stretch": ("Resize", [floats(1, 2, 12), np.array([], np.float32), np.array([1, 1, 5], np.float32)], HALF, 1),
    "reflect": ("Pad", [floats(2, 3, 8), whole(0, 0, 3, 0, 0, 2)], {"mode": "reflect"}, 1),
    "spectrum": ("STFT", [floats(1, 60, 1), np.array(5), floats(20), np.array(20)], {"onesided": 1}, 1),
    "scatter": ("ScatterND", [floats(4, 3), np.array([[1], [3]]), floats(2, 3)], {}, 1),
    "where it is not zero": ("NonZero", [np.array([[True, False], [True, True]])], {}, 1),
    "at least": ("Clip", [floats(9), np.array(0.1, np.float32)], {}, 1),
    "normalise": ("LayerNormalization", [floats(2, 3, 8), floats(8), floats(8)], {"epsilon": 1e-5}, 1),
    "add and normalise": ("SkipLayerNormalization", [floats(1, 3, 8), floats(1, 3, 8), floats(8), floats(8)], {"epsilon": 1e-5}, 1),
    "gelu": ("FastGelu", [floats(2, 8), floats(8)], {}, 1),
    "multiply the transposed": ("FusedMatMul", [floats(1, 5, 3), floats(1, 5, 4)], {"transA": 1, "alpha": 0.5}, 1),
    "multiply whole numbers": ("MatMulInteger", [quantised(3, 5), quantised(5, 4), np.array(0, np.uint8), np.array(9, np.uint8)], {}, 1),
    "convolve whole numbers": ("ConvInteger", [quantised(1, 4, 20), quantised(6, 4, 3), np.array(0, np.uint8), np.array(9, np.uint8)], CONV, 1),
    "dequantise": ("DequantizeLinear", [quantised(4, 3), np.array(0.1, np.float32), np.array(7, np.uint8)], {}, 1),
    "remember": (
        "DynamicQuantizeLSTM",
        [
            floats(7, 1, 16), quantised(2, 16, 32), quantised(2, 8, 32), 0.1 * floats(2, 64), None, np.zeros((2, 1, 8), np.float32),
            np.zeros((2, 1, 8), np.float32), None, np.array([0.003, 0.002], np.float32), np.array([120, 130], np.uint8),
            np.array([0.002, 0.003], np.float32), np.array([125, 131], np.uint8),
        ],
        {"direction": "bidirectional", "hidden_size": 8},
        1,
    ),
}  # fmt: skip
FOREIGN = {"SkipLayerNormalization", "FastGelu", "FusedMatMul", "DynamicQuantizeLSTM"}


@pytest.fixture
def kokoro_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "research" / "mini_base"))
    return importlib.import_module("kokoro_torch")


def write(path: Path, kind: str, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> dict[str, Any]:
    """A graph of one operator: the first input is fed, the others are constants."""
    names = ["" if value is None else f"i{k}" for k, value in enumerate(inputs)]
    constants = [numpy_helper.from_array(value, name) for name, value in zip(names[1:], inputs[1:], strict=True) if name]
    made = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(kind, names, made, "node", domain="com.microsoft" if kind in FOREIGN else "", **attributes)
    fed = helper.make_tensor_value_info("i0", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape)
    types = [ValueInfoProto(name=name) for name in made]
    graph = helper.make_graph([node], "one", [fed], types, constants)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=domains, ir_version=9), str(path))
    return {"i0": inputs[0]}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_that_of_onnx_runtime(name: str, kokoro_torch: Any, tmp_path: Path) -> None:
    kind, inputs, attributes, outputs = CASES[name]
    feeds = write(tmp_path / "one.onnx", kind, inputs, attributes, outputs)
    wanted = onnxruntime.InferenceSession(str(tmp_path / "one.onnx"), providers=["CPUExecutionProvider"]).run(None, feeds)
    graph = kokoro_torch.Graph(tmp_path / "one.onnx", torch.device("cpu"))
    fed = {name: torch.from_numpy(value) for name, value in feeds.items()}
    if kind.endswith("Integer"):  # whose activations stay floats here
        fed = {name: value.float() for name, value in fed.items()}
    near = {"rtol": 0.05, "atol": 0.02} if kind == "DynamicQuantizeLSTM" else {"rtol": 1e-4, "atol": 1e-4}
    for _ in range(2):  # the second time with what the first one kept
        for one, other in zip(graph.run(fed), wanted, strict=True):
            assert tuple(one.shape) == other.shape
            np.testing.assert_allclose(one.double().numpy(), other.astype(np.float64), **near)


def test_a_phase_in_silence_is_zero(kokoro_torch: Any) -> None:
    zero = torch.zeros(2)
    assert kokoro_torch.arctangent(zero / zero).tolist() == [0.0, 0.0]


def test_an_unknown_operator_is_refused(kokoro_torch: Any, tmp_path: Path) -> None:
    write(tmp_path / "one.onnx", "Erf", [floats(3)], {}, 1)
    with pytest.raises(ValueError, match="not known here: Erf"):
        kokoro_torch.Graph(tmp_path / "one.onnx", torch.device("cpu"))


def test_workers_take_all_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = importlib.import_module("corpus")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert corpus.devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert corpus.devices("cpu") == ["cpu"]


def test_no_gpu_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = importlib.import_module("corpus")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("sys.argv", ["corpus.py", f"--out={tmp_path}", "--kinds=shard", "--device=cuda"])
    with pytest.raises(SystemExit):
        corpus.main()
    assert "there is no GPU" in capsys.readouterr().err
