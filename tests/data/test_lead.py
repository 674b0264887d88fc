"""Silence before every sentence of a language: what it sounds like, what distributions say of it, and where it counts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.data.lead import after_silence, with_lead
from qrecipe.data.speech import SoftTargets, SpeechData, SpeechRow
from qrecipe.model.load import LoadedBase
from qrecipe.plan import complete_plan, make_plan
from qrecipe.recipe import load
from qrecipe.recipe.language import lead_frames
from qrecipe.run.events import Events
from qrecipe.run.session import open_session
from qrecipe.run.start import start_run
from qrecipe.run.store import RunStore
from qrecipe.run.synthetic import SyntheticSpeech
from qrecipe.train.objectives.distill import divergence
from tests.support import recipes


def spoken(frames: int, top: int = 4) -> SpeechData:
    """One row whose codes of layer 0 are 7, as its distribution says."""
    codes = torch.full((frames, 8), 7)
    likely = torch.tensor([[7, *range(100, 99 + top)]]).repeat(frames + 1, 1)
    logs = torch.full(likely.shape, 0.1 / (top - 1)).log()
    logs[:, 0] = torch.tensor(0.9).log()
    row = SpeechRow(1, "satu", [1], [2, 3], codes, frames / 12.5, 0.0, "", None, None, False, soft_targets=SoftTargets(likely, logs))
    return SpeechData("text", "malay", [row])


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 0), (0.01, 1), (0.08, 1), (0.24, 3), (0.48, 6), (0.5, 7), (2.0, 25)])
def test_a_lead_is_whole_frames(seconds: float, frames: int) -> None:
    assert lead_frames(seconds) == frames


def test_rows_begin_with_what_sounds_like_silence(opened: LoadedBase) -> None:
    data = spoken(5)
    (row,) = with_lead(opened, data, 6).rows
    assert row.frames == 11
    assert row.seconds == pytest.approx(11 / 12.5)
    assert torch.equal(row.codes[6:], data.rows[0].codes)
    wavs, _ = opened.net.speech_tokenizer.decode([{"audio_codes": row.codes[:6]}])
    assert abs(wavs[0]).max() < 0.01
    assert with_lead(opened, data, 0) is data


@pytest.mark.parametrize("code", [0, 2, 1500])
def test_distributions_are_sure_of_silence(code: int) -> None:
    """Their divergence is the surprise of a softmax over the whole vocabulary, and a student that expects silence is not pushed."""
    silence = torch.full((2, 8), code)
    (row,) = after_silence(spoken(3), silence).rows
    targets = row.soft_targets
    assert targets is not None
    assert len(targets.codes) == row.frames + 1
    assert all(len(set(codes)) == len(codes) for codes in targets.codes.tolist())
    assert targets.logs.double().exp().sum(1)[:2].tolist() == pytest.approx([1.0, 1.0])

    logits = torch.randn((row.frames + 1, 3072), generator=torch.Generator().manual_seed(0))
    surprise = -torch.log_softmax(logits.double(), 1)[:2, code]
    assert divergence(logits, targets)[:2].tolist() == pytest.approx(surprise.tolist(), rel=1e-5)
    sure = logits.clone()
    sure[:2, code] = 50.0
    sure.requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(sure, targets)[:2].sum(), sure)
    assert float(gradient.abs().max()) < 1e-6


def test_a_run_learns_and_judges_a_language_after_its_silence(mini: Any, tmp_path: Path) -> None:
    """Recordings, what the base says for it, and sentences that nobody has read; no other language."""
    recipes.write_data(tmp_path)
    recipes.write_rows(tmp_path / "data" / "old.jsonl", [{"text": t} for t in recipes.ENGLISH[:2]])
    recipes.write_rows(tmp_path / "data" / "unread.jsonl", [{"text": recipes.MALAY_DEV[0]}])
    (tmp_path / "data" / "table.yaml").write_text(
        "{respelling: 1, from: ms, into: es, alphabet: abcdefghijlmnopqrstuvyz, rules: [k -> c], tests: {suka: suca}}"
    )
    datasets = {**recipes.RECIPE["datasets"], "old": {"kind": "text", "language": "english", "path": "data/old.jsonl"}}
    datasets |= {n: {"kind": "text", "language": "malay", "path": f"data/{n}.jsonl"} for n in ("text", "unread")}
    respelling = {"language": "spanish", "table": "data/table.yaml"}
    languages = {"malay": {"bcp47": "ms", "init": {"copy": "spanish"}, "lead": 0.16, "respelling": respelling}}
    train = [{"match": "talker.text_projection", "lr": 1.0e-3}]
    stages = [
        {
            "id": "read",
            "objective": "respell",
            "data": ["text", {"use": "self", "language": "english", "share": 0.3}],
            "train": train,
            "steps": 1,
        }
    ]
    accept = [{"metric": "talker_nll", "data": "dev", "max": 100.0}, {"metric": "runaway_rate", "data": "unread", "max": 1.0}]
    fields = {"datasets": datasets, "languages": languages, "stages": stages, "accept": accept, "teacher": {"voices": ["data/ref.wav"]}}

    def ready(lead: float) -> dict[str, SpeechData]:
        languages["malay"]["lead"] = lead
        plan = complete_plan(load(recipes.write(tmp_path, recipes.recipe(**fields))))
        session = start_run(open_session(plan.base, plan.hashes, Events(None, None)), plan, RunStore(tmp_path / "run"))
        synthetic = SyntheticSpeech(session)
        synthetic.prepare(["read"], session.start)
        return {**session.data.speech, **synthetic.data}

    plain, led = ready(0.0), ready(0.16)
    assert led.keys() == plain.keys()
    for name, data in led.items():
        more = 2 if data.language == "malay" else 0
        for row, before in zip(data.rows, plain[name].rows, strict=True):
            assert row.frames == before.frames + more, name
            if name != "unread":
                assert torch.equal(row.codes[more:], before.codes)
    silences = [r.codes[:2] for n in ("dev", "text") for r in led[n].rows]
    assert all(torch.equal(s, silences[0]) for s in silences)


def test_a_lead_is_part_of_the_data_alone(tmp_path: Path) -> None:
    """It changes what is learned from, in that language, and no row's start; without one all hashes are what they were."""
    recipes.write_data(tmp_path)
    languages = copy.deepcopy(recipes.RECIPE["languages"])
    plain = make_plan(load(recipes.write(tmp_path, recipes.recipe(languages=languages)))).plan
    languages["malay"]["lead"] = 0.48
    led = make_plan(load(recipes.write(tmp_path, recipes.recipe(languages=languages)))).plan
    assert led.start == plain.start
    changed = {n for n, d in led.datasets.items() if d.sha256 != plain.datasets[n].sha256}
    assert changed == {n for n, d in plain.datasets.items() if d.language == "malay"}
    assert led.stages[0].fingerprint != plain.stages[0].fingerprint
