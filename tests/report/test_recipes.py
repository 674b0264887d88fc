"""`qrecipe show`: the document that results, and where each of its values comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qrecipe.recipe import load
from qrecipe.report.recipes import as_yaml, origins_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_with_origins_it_is_the_same_document(path: Path) -> None:
    loaded = load(path)
    value = loaded.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert yaml.safe_load(as_yaml(value, origins_of(value, loaded.node))) == yaml.safe_load(as_yaml(value)) == value


def test_origins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.yaml").write_text(
        "qrecipe: 1\ntemplate: true\nvars: {rate: 1.0e-3}\nstages:\n"
        "  - id: a\n    objective: speech\n    data: [s]\n    epochs: 1\n"
        "    train: [{match: talker.model.codec_embedding, rows: languages, lr: $rate}]\n"
    )
    Path("r.yaml").write_text(
        "qrecipe: 1\nextends: t.yaml\nname: r\nversion: 0.1.0\nbase: {model: builtin:mini}\n"
        "languages: {malay: {bcp47: ms, init: {copy: english}}}\ndatasets: {s: {kind: speech, language: malay, path: s.jsonl}}\n"
        "vars: {rate: 2.0e-3}\nstages:\n  - {id: a, epochs: 2}\n"
    )
    loaded = load("r.yaml", ["stages.a.clip=2", "seed=7"])
    value = loaded.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = origins_of(value, loaded.node)
    assert found["stages.a.objective"] == "t.yaml:6"
    assert found["stages.a.epochs"] == "r.yaml:10"
    assert found["stages.a.train.0.lr"] == "t.yaml:9, $rate at r.yaml:8"
    assert found["stages.a.clip"] == "--set stages.a.clip=2"
    assert found["seed"] == "--set seed=7"
    assert found["stages.a.warmup"] == "default"
    stated = loaded.node.plain()
    assert "default" not in origins_of(stated, loaded.node).values()
