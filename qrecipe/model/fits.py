"""Whether a base's config and its weights belong together, found out before memory is taken.

The stock classes are built without memory (on torch's meta device) and compared with the headers of the weights: a tensor
that is missing would silently be random, and a shape that differs could be of any size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qrecipe.errors import BaseModelError, Place, Problem, in_a_line
from qrecipe.files import read_json
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.weight_files import header_shapes, weight_files
from qrecipe.model.stock import silence, stock


def require_fit(info: LocalBase) -> None:
    """Raises `BaseModelError` if the stock classes would not find exactly the weights that the config asks for."""
    place = Place(str(info.model))
    parts: list[tuple[str, Any, dict[str, tuple[int, ...]]]] = [("config.json", _talker, info.tensors)]
    speech = info.folder / "speech_tokenizer"
    parts.append(("speech_tokenizer/config.json", _speech, header_shapes(weight_files(speech), place)))
    for name, make, stored in parts:
        try:
            with silence(), torch.device("meta"), stock().without_initial_weights():
                built = make(info, speech)
        except Exception as e:  # whatever a config from anywhere makes the stock classes raise
            message = f"{name} does not describe a model that qwen_tts knows: {in_a_line(e)}"
            raise BaseModelError(Problem("QR051", message, place)) from None
        expected = {k: tuple(v.shape) for k, v in built.state_dict().items()}
        missing = sorted(expected.keys() - stored.keys())
        if missing:
            raise BaseModelError(Problem("QR051", f"{name} asks for `{missing[0]}`, which the weights do not hold", place))
        other = next((k for k, shape in sorted(expected.items()) if stored[k] != shape), None)
        if other is not None:
            message = f"{name} asks for `{other}` of shape {list(expected[other])}, and the weights hold {list(stored[other])}"
            raise BaseModelError(Problem("QR051", message, place))


def _talker(info: LocalBase, speech: Path) -> torch.nn.Module:
    config = {k: v for k, v in info.config.items() if k != "architectures"}
    net: torch.nn.Module = stock().Net(stock().Config(**config))
    return net


def _speech(info: LocalBase, speech: Path) -> torch.nn.Module:
    net: torch.nn.Module = stock().SpeechNet(stock().SpeechConfig(**read_json(speech / "config.json")))
    return net
