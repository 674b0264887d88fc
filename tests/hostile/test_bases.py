"""Base folders from strangers: what could run code, lead elsewhere or take all memory is refused with the reason, unread."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import BaseModelError, Place
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BaseInfo, LocalBase, describe_folder
from qrecipe.inputs.parts import missing_part
from qrecipe.inputs.weight_files import read_header
from qrecipe.recipe.base import Base
from tests.support.bases import base_folder


def describe(folder: Path) -> BaseInfo:
    return describe_folder(folder, Base(model="./base"), Place("recipe.yaml"), FileHashes(folder.parent / "hashes.sqlite"))


def config(folder: Path, file: str = "config.json", **changes: Any) -> None:
    """Sets values of a config; `a__b` is `b` within `a`."""
    value = json.loads((folder / file).read_text())
    for path, new in changes.items():
        target = value
        *keys, last = path.split("__")
        for key in keys:
            target = target[key]
        target[last] = new
    (folder / file).write_text(json.dumps(value))


def header(folder: Path, entries: dict[str, Any], size: int = 64) -> None:
    text = json.dumps(entries).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8], **changes}


def only_pickled(folder: Path, part: str = ".") -> None:
    (folder / part / "model.safetensors").unlink()
    (folder / part / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/x'\ntR.")


def index(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def link(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickled weights": (only_pickled, "pytorch_model.bin, which may run code when it is read; only safetensors"),
    "a pickled speech tokenizer": (lambda f: only_pickled(f, "speech_tokenizer"), "the speech tokenizer: weights are in pytorch_model.bin"),
    "code": (lambda f: (f / "modeling.py").write_text("import os"), "modeling.py: code"),
    "remote code": (lambda f: config(f, auto_map={"AutoModel": "modeling.Net"}), "`auto_map` would run code"),
    "remote code of the tokenizer": (lambda f: config(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["a.B", None]}), "`auto_map`"),
    "a quantiser": (lambda f: config(f, quantization_config={"quant_method": "x"}), "`quantization_config` would run code"),
    "an index that leads out": (lambda f: index(f, "../../other/model.safetensors"), "is no name of a safetensors file"),
    "an index of a pickle": (lambda f: index(f, "pytorch_model.bin"), "is no name of a safetensors file"),
    "an index of nothing": (lambda f: index(f, "model-1.safetensors"), "missing model-1.safetensors"),
    "a link": (lambda f: link(f, "merges.txt", "/etc/hostname"), "merges.txt is a link that leads out"),
    "a billion layers": (lambda f: config(f, talker_config__num_hidden_layers=10**9), "num_hidden_layers` is 1000000000"),
    "a wide layer": (lambda f: config(f, talker_config__hidden_size=10**9), "hidden_size` is 1000000000"),
    "a long list": (lambda f: config(f, talker_config__layer_types=["full_attention"] * 5000), "has 5,000 entries"),
    "a language row outside": (lambda f: config(f, talker_config__codec_language_id={"x": 10**6}), "row that the codec embedding"),
    "a language row of text": (lambda f: config(f, talker_config__codec_language_id={"x": "y"}), "row that the codec embedding"),
    "no talker": (lambda f: config(f, talker_config=[]), "no `talker_config`"),
    "a header longer than the file": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62)), "its header is longer"),
    "a shape larger than the file": (lambda f: header(f, {"a": entry(shape=[1 << 40, 1 << 40])}), "does not fit its shape"),
    "a shape of many dimensions": (lambda f: header(f, {"a": entry(shape=[1] * 100_000)}), "does not fit its shape"),
    "a shape of truth values": (lambda f: header(f, {"a": entry(shape=[True, 4])}), "does not fit its shape"),
    "offsets behind the end": (lambda f: header(f, {"a": entry(data_offsets=[1000, 1008])}), "the file breaks off: it has "),
    "negative offsets": (lambda f: header(f, {"a": entry(data_offsets=[-8, 0])}), "does not fit its shape"),
    "an unknown number format": (lambda f: header(f, {"a": entry(dtype="F4")}), "does not fit its shape"),
    "weights of whole numbers": (lambda f: header(f, {"a": entry(dtype="I16")}), "weights of I16"),
    "a header that is nested": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 60_000) + b"[" * 60_000), "not JSON"),
    "a config that is nested": (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    describe(folder)
    change, message = HOSTILE[what]
    change(folder)
    with pytest.raises(BaseModelError) as refused:
        describe(folder)
    (problem,) = refused.value.problems
    assert problem.code == "QR051"
    assert message in problem.message


@pytest.mark.parametrize("length", [10**30, 1e30, 131_072])
def test_a_tokenizer_that_knows_no_limit_is_fine(length: float, tmp_path: Path) -> None:
    """10^30 is what transformers writes for it."""
    folder = base_folder(tmp_path / "base")
    config(folder, "tokenizer_config.json", model_max_length=length)
    assert describe(folder) is not None


def test_a_snapshot_of_the_hub_is_links_and_fine(tmp_path: Path) -> None:
    """Its files lie among the blobs beside it."""
    repository = tmp_path / "models--a--b"
    folder = base_folder(repository / "snapshots" / ("0" * 40))
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file())):
        blob = repository / "blobs" / str(i)
        shutil.move(file, blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert describe(folder).tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"talker_config__num_hidden_layers": 6}, "which the weights do not hold"),
        ({"talker_config__intermediate_size": 1 << 23}, "of shape"),
        ({"talker_config__hidden_act": "os.system"}, "does not describe a model"),
        ({"speaker_encoder_config": 5}, "does not describe a model"),
    ],
)
def test_a_config_of_another_model_takes_no_memory(mini: LocalBase, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Found out from shapes alone; a tensor that is missing would silently be random."""
    from qrecipe.model.load import open_model

    assert mini.folder is not None
    folder = tmp_path / "base"
    shutil.copytree(mini.folder, folder)
    layers = json.loads((folder / "config.json").read_text())["talker_config"]["num_hidden_layers"]
    if "talker_config__num_hidden_layers" in change:
        change = {"talker_config__num_hidden_layers": layers + 1}
    config(folder, **change)
    with pytest.raises(BaseModelError, match=message):
        open_model(describe(folder))


def without(folder: Path, *prefixes: str) -> None:
    """Takes tensors out of the weights' header, as conversions and fine-tuning scripts do."""
    entries = read_header(folder / "model.safetensors", Place("x"))
    header(folder, {k: v for k, v in entries.items() if not k.startswith(prefixes)}, 1 << 26)


@pytest.mark.parametrize(
    ("prefix", "part", "help_"),
    [
        ("speaker_encoder.", "speaker_encoder", "fine-tuning scripts leave the speaker encoder out"),
        ("speaker_encoder.asp.conv.", "speaker_encoder.asp.conv", "fine-tuning scripts leave the speaker encoder out"),
        ("talker.code_predictor.", "talker.code_predictor", "`-Base` checkpoint"),
        ("talker.code_predictor.lm_head.6.", "talker.code_predictor.lm_head.6", "`-Base` checkpoint"),
        ("talker.model.layers.2.", "talker.model.layers.2", "`-Base` checkpoint"),
        ("talker.text_projection.linear_fc1.bias", "talker.text_projection.linear_fc1.bias", "`-Base` checkpoint"),
    ],
)
def test_a_part_that_the_weights_lack_is_named_without_opening_them(prefix: str, part: str, help_: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    without(folder, prefix)
    with pytest.raises(BaseModelError) as refused:
        describe(folder)
    (problem,) = refused.value.problems
    assert problem.message == f"base: config.json asks for `{part}`, which the weights do not hold"
    assert help_ in (problem.help or "")


@pytest.mark.parametrize("name", ["qwen3-tts-12hz-1.7b-base", "qwen3-tts-12hz-0.6b-base", "mini"])
def test_published_bases_lack_nothing(name: str) -> None:
    whole, example = (json.loads((resources.files("qrecipe.plan") / "catalogues" / f"{n}.json").read_text()) for n in (name, "mini"))
    assert missing_part(whole["config"], whole["tensors"], example["tensors"]) is None


def test_a_speech_tokenizer_without_its_encoder(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    part = {"decoder.a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    header(folder / "speech_tokenizer", part)
    with pytest.raises(BaseModelError, match="the speech tokenizer has no encoder"):
        describe(folder)
