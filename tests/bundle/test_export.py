"""What a bundle holds: the base's own bytes but for what was trained, in a form that stock loads and speaks."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qrecipe.bundle.build import _earlier_tags, _seal
from qrecipe.bundle.export import holds_weights, write_model
from qrecipe.bundle.verify import read_manifest
from qrecipe.errors import EngineError
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase, known_tags
from qrecipe.inputs.documents.bundle import BundleLanguage
from qrecipe.inputs.fetch import resolve
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.inputs.weight_files import weight_files
from qrecipe.model.load import open_model
from qrecipe.model.weights import Delta
from qrecipe.qwen3 import CODEC_TABLE, TEXT_TABLE
from qrecipe.recipe.base import Base
from tests.support import audio, recipes
from tests.support.bases import load_weights
from tests.support.shared import Finished

NORM = "talker.model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def delta() -> Delta:
    torch.manual_seed(0)
    return Delta(
        whole={NORM: torch.rand(256), "talker.text_projection.linear_fc2.weight": torch.randn(256, 256)},
        rows={CODEC_TABLE: (torch.tensor([2072, 2080]), torch.randn(2, 256)), TEXT_TABLE: (torch.tensor([0, 639]), torch.randn(2, 256))},
    )


@pytest.fixture(scope="module")
def exported(mini: LocalBase, delta: Delta, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_model(mini, folder, delta, {"malay": 2072})
    return folder


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def header(file: Path) -> bytes:
    content = file.read_bytes()
    return content[: 8 + struct.unpack("<Q", content[:8])[0]]


def check_weights(base: dict[str, torch.Tensor], new: dict[str, torch.Tensor], delta: Delta) -> None:
    """Every tensor has the base's bits, and the delta's values in bfloat16 where it has some."""
    assert new.keys() == base.keys()
    for name, tensor in base.items():
        expected = tensor.clone()
        if name in delta.whole:
            expected = delta.whole[name].to(torch.bfloat16)
        if name in delta.rows:
            ids, values = delta.rows[name]
            expected[ids] = values.to(torch.bfloat16)
        assert new[name].dtype == tensor.dtype
        assert torch.equal(bits(new[name]), bits(expected)), name


def test_only_trained_bytes_differ(mini: LocalBase, exported: Path, delta: Delta) -> None:
    assert mini.folder is not None
    for old in weight_files(mini.folder):
        new = exported / old.name
        assert header(old) == header(new)
        assert old.stat().st_size == new.stat().st_size
    check_weights(load_weights(mini.folder), load_weights(exported), delta)


def test_one_trained_bit_more_is_another_model(mini: LocalBase, exported: Path, delta: Delta, tmp_path: Path) -> None:
    """A bundle that exists is compared with a result without a copy of the base."""
    assert holds_weights(mini, exported, delta)
    ids, rows = delta.rows[CODEC_TABLE]
    for other in (replace(delta, whole={**delta.whole, NORM: delta.whole[NORM] * 2}), delta.then(Delta(rows={CODEC_TABLE: (ids, -rows)}))):
        assert not holds_weights(mini, exported, other)


def test_every_other_file_is_the_base_s(mini: LocalBase, exported: Path) -> None:
    assert mini.folder is not None
    changed = set()
    for file in sorted(f for f in exported.rglob("*") if f.is_file()):
        original = mini.folder / file.relative_to(exported)
        if file.read_bytes() != original.read_bytes():
            changed.add(str(file.relative_to(exported)))
        assert file.stat().st_ino != original.stat().st_ino, "copied, never linked"
        assert file.stat().st_nlink == 1
    assert changed == {"config.json", *(f.name for f in weight_files(mini.folder))}
    missing = {f.name for f in mini.folder.iterdir()} - {f.name for f in exported.iterdir()}
    assert missing == {"builtin.json", "README.md"}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("4.57.3", "4.57.2"), ("4.58.0", "4.57.2"), ("5.0.0.dev0", "4.57.2"), (None, "4.57.2"), ("4.57.2", "4.57.2"), ("4.57.1", "4.57.1")],
)
def test_the_pristine_config_is_patched(version: str | None, expected: str, mini: LocalBase, tmp_path: Path) -> None:
    """The language's row, and a transformers version for which transformers keeps Qwen's pre-tokenizer; nothing else."""
    assert mini.folder is not None
    base = tmp_path / "base"
    shutil.copytree(mini.folder, base, ignore=shutil.ignore_patterns("speech_tokenizer"))
    config = json.loads((base / "config.json").read_text())
    config.pop("transformers_version")
    if version is not None:
        config["transformers_version"] = version
    (base / "config.json").write_text(json.dumps(config))
    (tmp_path / "out").mkdir()
    write_model(replace(mini, folder=base), tmp_path / "out", Delta(), {"malay": 2072})
    patched = json.loads((tmp_path / "out" / "config.json").read_text())
    assert patched.pop("transformers_version") == expected
    assert patched["tts_model_type"] == "base"
    assert patched["talker_config"]["codec_language_id"].pop("malay") == 2072
    config.pop("transformers_version", None)
    assert patched == config


def test_a_bundle_of_a_bundle_hands_on_its_tags(finished: Finished, mini: LocalBase, tmp_path: Path) -> None:
    """Who opens the second has the first no more. A bundle of a published base says nothing of it."""
    first = read_manifest(finished.outcome.bundle)
    assert (_earlier_tags(mini), "base_tags" in (finished.outcome.bundle / "bundle.json").read_text()) == ({}, False)
    tags = known_tags(finished.outcome.bundle)
    assert _earlier_tags(replace(mini, tags=tags)) == {"malay": "ms"}
    second = first.model_copy(update={"languages": {"kelantan": BundleLanguage(bcp47="zlm", token_id=2056)}, "base_tags": {"malay": "ms"}})
    _seal(tmp_path, tmp_path / "none", second)
    assert known_tags(tmp_path) == {**tags, "kelantan": "zlm"}


@pytest.mark.parametrize("files", [1, 3])
def test_other_shards_than_the_embedded_base_s(files: int, mini: LocalBase, delta: Delta, tmp_path: Path) -> None:
    """One file, or shards with an index as transformers writes large models: each keeps its tensors."""
    assert mini.folder is not None
    base = tmp_path / "base"
    shutil.copytree(mini.folder, base)
    for file in base.glob("model*"):
        file.unlink()
    tensors = load_weights(mini.folder)
    names = sorted(tensors)
    parts = {f"model-{k + 1:05d}-of-{files:05d}.safetensors": names[k::files] for k in range(files)}
    if files == 1:
        parts = {"model.safetensors": names}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, str(base / file), metadata={"format": "pt"})
    if files > 1:
        index = {"metadata": {}, "weight_map": {n: file for file, part in parts.items() for n in part}}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))

    from qrecipe.errors import Place

    info = resolve(Base(model=str(base)), tmp_path, Place("test"), FileHashes())
    assert info.tensors == mini.tensors
    out = tmp_path / "out"
    out.mkdir()
    write_model(info, out, delta, {"malay": 2072})
    assert {f.name for f in out.glob("model*.safetensors")} == set(parts)
    for file, part in parts.items():
        assert sorted(load_file(out / file)) == part
    check_weights(tensors, load_weights(out), delta)
    reopened = open_model(replace(info, folder=out, tokenizer=TextTokenizer.of_folder(out)))
    assert reopened.language_row("malay") == 2072
    row = reopened.talker.model.codec_embedding.weight[2080]
    assert torch.equal(row, delta.rows[CODEC_TABLE][1][1].to(torch.bfloat16).float())


def test_what_the_base_does_not_hold_is_an_error(mini: LocalBase, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(EngineError, match=r"talker\.nothing"):
        write_model(mini, tmp_path / "a", Delta(whole={"talker.nothing": torch.zeros(1)}), {})
    (tmp_path / "b").mkdir()
    with pytest.raises(EngineError, match="256"):
        write_model(mini, tmp_path / "b", Delta(whole={NORM: torch.zeros(7)}), {})


SPEAK = """
import sys, json
import soundfile
from qwen_tts import Qwen3TTSModel

bundle, reference, text = sys.argv[1:]
model = Qwen3TTSModel.from_pretrained(bundle)
wavs, rate = model.generate_voice_clone(
    text="Selamat pagi.", language="Malay", ref_audio=reference, ref_text=text, max_new_tokens=5
)
ids = model._tokenize_texts([model._build_assistant_text("WhatsApp: selamat pagi, สวัสดี")])[0][0].tolist()
names = [n for n in sys.modules if n.split(".")[0] == "qrecipe"]
print(json.dumps([model.get_supported_languages(), rate, len(wavs[0]), names, model.model.tts_model_type, ids]))
"""


@pytest.mark.slow
def test_stock_loads_it_and_speaks_the_language(finished: Finished, mini: LocalBase, tmp_path: Path) -> None:
    """In a process that never imports qrecipe, in-context as stock does by default, asked for with a capital."""
    voice = audio.write(tmp_path / "voice.wav", audio.speech(3, 1.0))
    bundle = finished.outcome.bundle
    command = [sys.executable, "-c", SPEAK, str(bundle), str(voice), recipes.REFERENCE_TEXT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    languages, rate, samples, imported, kind, ids = json.loads(done.stdout.splitlines()[-1])
    assert {"auto", "english", "malay"} <= set(languages)
    assert rate == 24_000
    assert samples >= 1920
    assert imported == []
    assert kind == "base"
    assert mini.tokenizer is not None
    assert ids[3:-5] == mini.tokenizer.assistant("WhatsApp: selamat pagi, สวัสดี")[1]


def test_the_bundle_s_weights_are_what_was_judged(finished: Finished, mini: LocalBase) -> None:
    """The delta of the run, rounded, on the base: nothing between the last verdict and the file."""
    from qrecipe.plan import make_plan
    from qrecipe.recipe import load
    from qrecipe.run.store import RunStore

    assert mini.folder is not None
    store = RunStore(finished.runs / "tiny")
    merged = Delta()
    plan = make_plan(load(finished.recipe, [])).plan
    for fingerprint in (plan.start.fingerprint, finished.outcome.stages[0].fingerprint):
        assert fingerprint is not None
        stored = store.load_stage(fingerprint)
        assert stored is not None
        merged = merged.then(stored.delta)
    check_weights(load_weights(mini.folder), load_weights(finished.outcome.bundle), merged)


def test_it_names_no_place_clock_or_host(finished: Finished) -> None:
    import getpass
    import socket

    bundle: Any = finished.outcome.bundle
    places = [str(finished.recipe.parent), str(Path.home()), socket.gethostname(), f"/{getpass.getuser()}/"]
    for file in bundle.rglob("*"):
        if file.suffix in {".json", ".yaml", ".lock", ".md"}:
            text = file.read_text(encoding="utf-8")
            assert not [p for p in places if p in text], file.name
    card = (bundle / "README.md").read_text()
    assert card.startswith("---\n")
    assert "the small base that comes with qrecipe" in card
    assert "qwen3-tts-tiny-0.1.0-base" in card, "how to serve it"
