"""On codes that the model itself chose greedily, aligned losses are far lower than shifted ones, and stock's is shifted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qrecipe.errors import EngineError
from qrecipe.model import forward, prompt, speak
from qrecipe.model.load import LoadedBase
from qrecipe.train import selfcheck

TEXTS = ("Saya suka makan nasi.", "Adik pergi ke sekolah.", "Bunga itu merah.", "Ibu memasak di dapur hari ini.")
GREEDY = {"do_sample": False, "subtalker_dosample": False, "repetition_penalty": 1.0}


@pytest.fixture(scope="module")
def own(opened: LoadedBase, voice: object, example: Callable[..., prompt.Example]) -> list[prompt.Example]:
    """What the model says when it decodes greedily, as if it were recordings."""
    found = []
    end = opened.talker.codec_head.weight.data[opened.config.talker_config.codec_eos_token_id]
    before = end.clone()
    end[0] = 0.2  # later than the embedded base ends by itself
    for text in TEXTS:
        said = speak.Utterance(text, "english", voice.x_vector)  # type: ignore[attr-defined]
        codes = speak.speak(opened, [said], layout="streaming", seed=0, max_frames=8, **GREEDY)[0].codes
        found.append(example(text=text, codes=codes))
    end.copy_(before)
    return found


def test_aligned_losses_are_far_lower(opened: LoadedBase, own: list[prompt.Example]) -> None:
    found = {a.name: a for a in selfcheck.measure(opened, forward.Tables(opened.talker), own)}
    for name in ("talker", "predictor"):
        assert found[name].aligned < found[name].shifted - 0.5, str(found[name])
        assert found[name].verdict == "passed"
    selfcheck.require(list(found.values()))


def test_the_stock_fine_tuning_loss_is_shifted_once_more(opened: LoadedBase, own: list[prompt.Example]) -> None:
    """`forward_sub_talker_finetune` hands aligned logits to a loss that shifts: head i learns codebook i+2."""
    batch = prompt.collate(own, prompt.ControlIds.of(opened.config))
    tables = forward.Tables(opened.talker)
    with torch.no_grad():
        hidden = forward.label_hidden(tables, batch, torch.float32)[batch.frame_label]
        ours = forward.predictor_nll(forward.speech_logits(tables, batch, torch.float32), batch).mean()
        logits, stock = opened.talker.forward_sub_talker_finetune(batch.frame_codes, hidden)
        mine = forward.predictor_logits(tables, hidden, batch.frame_codes)
    assert logits.sub(mine).abs().max() < 1e-4, "the logits agree; only the labels do not"
    assert float(stock) > float(ours) + 0.5


def test_a_misaligned_engine_does_not_train() -> None:
    """The same numbers the other way round: lower one off than aligned."""
    good = selfcheck.Alignment("talker", aligned=2.0, shifted=5.0, error=0.1, uniform=6.2)
    selfcheck.require([good])
    with pytest.raises(EngineError, match="not aligned"):
        selfcheck.require([good, replace(good, name="predictor", aligned=5.0, shifted=2.0)])


def test_a_base_that_predicts_by_chance_cannot_tell(opened: LoadedBase, example: Callable[..., prompt.Example]) -> None:
    """The embedded base has random weights: on recordings both losses are at chance, and nothing is concluded."""
    found = selfcheck.measure(opened, forward.Tables(opened.talker), [example(i) for i in range(3)])
    assert {a.verdict for a in found} == {"skipped"}
    selfcheck.require(found)
