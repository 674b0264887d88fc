"""The training forward is stock `generate`, position by position: inputs, hidden states, greedy codes, likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.measure import teacher_forced
from qrecipe.model import forward, prompt
from qrecipe.model.load import LoadedBase
from tests.support import recipes, ties

pytestmark = pytest.mark.usefixtures("patient")

TEXT = "Kucing itu tidur di atas kerusi."
LONG_TEXT = "Pada suatu hari, seekor kucing tidur di atas kerusi lama itu."
CAP = 24


@dataclass(frozen=True)
class Case:
    """One way to ask for speech."""

    language: str
    layout: Any
    voice: str
    """`x_vector`, `none`, `longer` (in-context, the reference outlasts the text) or `shorter`."""

    @property
    def text(self) -> str:
        return LONG_TEXT if self.voice == "shorter" else "Hai." if self.voice == "longer" else TEXT

    @property
    def in_context(self) -> bool:
        return self.voice in ("longer", "shorter")


CASES = [Case(*c) for c in product(("auto", "english"), ("streaming", "non_streaming"), ("x_vector", "none", "longer", "shorter"))]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.language}-{c.layout}-{c.voice}")


@dataclass(frozen=True)
class Generated:
    """What stock did."""

    codes: torch.Tensor
    """[frames, codebooks]."""
    hidden: torch.Tensor
    """[frames, hidden], the state that predicted each frame, as stock returns it."""
    talker: torch.Tensor
    """[frames + 1, codec vocabulary]: logits of each frame's first code, and of what followed the last frame."""
    predictor: torch.Tensor
    """[frames, codebooks - 1, codebook size]: logits of the other codes, each behind those that stock chose before."""
    inputs: torch.Tensor
    """[positions, hidden]: everything that entered the talker, prompt and frames."""
    prompt: int
    """Positions of the prompt."""


class Stock:
    """Calls stock `Qwen3TTSForConditionalGeneration.generate` the way stock `generate_voice_clone` does."""

    def __init__(self, opened: LoadedBase, voice: Any) -> None:
        self.opened, self.voice = opened, voice
        self._done: dict[Case, Generated] = {}

    def arguments(self, case: Case, text: str | None = None) -> dict[str, Any]:
        wrapper = self.opened.wrapper
        clone = None
        if case.voice != "none":
            clone = {
                "ref_code": [self.voice.codes if case.in_context else None],
                "ref_spk_embedding": [self.voice.x_vector],
                "x_vector_only_mode": [not case.in_context],
                "icl_mode": [case.in_context],
            }
        return {
            "input_ids": wrapper._tokenize_texts([wrapper._build_assistant_text(text or case.text)]),
            "ref_ids": wrapper._tokenize_texts([wrapper._build_ref_text(recipes.REFERENCE_TEXT)]) if case.in_context else [None],
            "voice_clone_prompt": clone,
            "languages": [case.language],
            "non_streaming_mode": case.layout == "non_streaming",
        }

    def generate(self, case: Case) -> Generated:
        if case in self._done:
            return self._done[case]
        self.opened.reset()
        inputs: list[torch.Tensor] = []
        first: list[torch.Tensor] = []
        others: list[torch.Tensor] = []
        talker = self.opened.talker
        hooks = [
            talker.model.register_forward_pre_hook(
                lambda module, args, kwargs: inputs.append(kwargs["inputs_embeds"][0].clone()), with_kwargs=True
            ),
            talker.codec_head.register_forward_hook(lambda module, args, out: first.append(out[0, -1].clone())),
            *(
                head.register_forward_hook(lambda module, args, out: others.append(out[0, -1].clone()))
                for head in talker.code_predictor.lm_head
            ),
        ]
        try:
            generated, hidden = self.opened.net.generate(
                **self.arguments(case), max_new_tokens=CAP + 1, do_sample=False, subtalker_dosample=False, repetition_penalty=1.0
            )
        finally:
            for hook in hooks:
                hook.remove()
            self.opened.reset()
        codes = generated[0]
        predictor = torch.stack(others).view(-1, len(talker.code_predictor.lm_head), others[0].shape[-1])
        logits = torch.stack(first)[: len(codes) + 1], predictor[: len(codes)]
        self._done[case] = Generated(codes, hidden[0], *logits, torch.cat(inputs), len(inputs[0]))
        return self._done[case]

    def prompt(self, case: Case, text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
        """What stock hands to the talker before it generates anything."""

        class Stop(Exception):
            pass

        kept: dict[str, Any] = {}

        def keep(**kwargs: Any) -> None:
            kept.update(kwargs)
            raise Stop

        with monkeypatch.context() as patched:
            patched.setattr(self.opened.talker, "generate", keep)
            with pytest.raises(Stop):
                self.opened.net.generate(**self.arguments(case, text))
        return kept


@pytest.fixture(scope="module")
def stock(opened: LoadedBase, voice: Any) -> Stock:
    return Stock(opened, voice)


@pytest.fixture
def batch_of(opened: LoadedBase, example: Callable[..., prompt.Example]) -> Callable[..., prompt.SpeechBatch]:
    """The batch that training would see if the generated codes were a recording."""

    def make(case: Case, codes: torch.Tensor) -> prompt.SpeechBatch:
        made = example(
            text=case.text,
            language=case.language,
            layout=case.layout,
            in_context=case.in_context,
            speaker=case.voice != "none",
            codes=codes,
        )
        return prompt.collate([made], prompt.ControlIds.of(opened.config))

    return make


def as_stock_masks(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Ids 2048 to 3071 are suppressed but the end, and the end is barred for two frames."""
    masked = logits.clone()
    end = config.talker_config.codec_eos_token_id
    control = [i for i in range(2048, 3072) if i != end]
    masked[:, control] = -torch.inf
    masked[:2, end] = -torch.inf
    return masked


def test_the_cases_cover_both_branches_of_in_context_prompts(opened: LoadedBase, voice: Any) -> None:
    """Stock lays out a reference that outlasts both texts, and one that does not, in different branches."""
    reference = opened.tokenizer.reference(recipes.REFERENCE_TEXT)
    frames = len(voice.codes) + 1
    assert len(reference) + len(opened.tokenizer.assistant("Hai.")[1]) + 1 < frames
    assert len(reference) + len(opened.tokenizer.assistant(LONG_TEXT)[1]) + 1 > frames


@every_case
def test_greedy_codes_are_reproduced(case: Case, stock: Stock, batch_of: Any, opened: LoadedBase) -> None:
    """Every choice behind the codes that stock chose before it, so that one at a tie changes none after it."""
    generated = stock.generate(case)
    codes, theirs = generated.codes, as_stock_masks(generated.talker, opened.config)
    batch = batch_of(case, codes)
    with torch.no_grad():
        logits = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32)
    assert logits.predictor is not None
    assert torch.equal(theirs.argmax(-1)[: len(codes)], codes[:, 0]), "the logits are those by which stock chose"
    assert torch.equal(generated.predictor.argmax(-1), codes[:, 1:])
    if len(codes) < CAP:
        assert int(theirs[-1].argmax()) == opened.config.talker_config.codec_eos_token_id
    ours = as_stock_masks(logits.talker, opened.config)
    ties.assert_best(ours.argmax(-1)[: len(theirs)], theirs)
    ties.assert_best(logits.predictor.argmax(-1), generated.predictor)


def test_the_greedy_codes_are_worth_comparing(stock: Stock) -> None:
    codes = [stock.generate(case).codes for case in CASES]
    assert sum(len(c) for c in codes) > 6 * len(CASES)
    assert any(len(c) < CAP for c in codes), "some case ends by itself"
    # this base says the same in both layouts behind the longer English reference
    assert len({tuple(c.flatten().tolist()) for c in codes}) >= len(CASES) - 1


@every_case
def test_inputs_are_what_stock_feeds_the_talker(case: Case, stock: Stock, batch_of: Any, opened: LoadedBase) -> None:
    generated = stock.generate(case)
    ours = forward.input_embeddings(forward.Tables(opened.talker), batch_of(case, generated.codes), torch.float32)
    fed = len(generated.inputs)
    torch.testing.assert_close(ours[:fed], generated.inputs, rtol=1e-5, atol=1e-5)  # some exceed 128, where one digit of float32 is 1.5e-5
    assert fed >= len(ours) - 1
    ids = prompt.ControlIds.of(opened.config)
    positions = prompt.build(
        ids,
        opened.tokenizer.assistant(case.text),
        0,
        layout=case.layout,
        prefix=ids.prefix(opened.language_row(case.language), case.voice != "none"),
        reference=prompt.Reference(opened.tokenizer.reference(recipes.REFERENCE_TEXT), len(stock.voice.codes)) if case.in_context else None,
    )
    assert len(positions) == generated.prompt


@every_case
def test_the_predictor_gets_the_state_before_the_frame(case: Case, stock: Stock, batch_of: Any, opened: LoadedBase) -> None:
    """Stock returns the states that its predictor was given; ours are the same, and the frame's own are not."""
    generated = stock.generate(case)
    hidden = forward.label_hidden(forward.Tables(opened.talker), batch_of(case, generated.codes), torch.float32)
    n = len(generated.codes)
    assert hidden[:n].sub(generated.hidden).abs().max() < 1e-4
    assert hidden[1 : n + 1].sub(generated.hidden).abs().amax(1).min() > 0.01


def test_states_one_frame_late_give_other_codes(stock: Stock, batch_of: Any, opened: LoadedBase) -> None:
    generated = stock.generate(Case("english", "streaming", "x_vector"))
    tables = forward.Tables(opened.talker)
    with torch.no_grad():
        hidden = forward.label_hidden(tables, batch_of(Case("english", "streaming", "x_vector"), generated.codes), torch.float32)
        right = forward.predictor_logits(tables, hidden[:-1], generated.codes).argmax(-1)
        late = forward.predictor_logits(tables, hidden[1:], generated.codes).argmax(-1)
    ties.assert_best(right, generated.predictor)
    assert late.eq(generated.codes[:, 1:]).float().mean() < 0.5


@pytest.mark.parametrize("speaker", [True, False])
@pytest.mark.parametrize("language", ["auto", "english"])
def test_the_speaker_moves_with_the_prefix(language: str, speaker: bool, opened: LoadedBase) -> None:
    """Index 6 after the automatic prefix, 7 after a language's; nowhere without a speaker."""
    ids = prompt.ControlIds.of(opened.config)
    prefix = ids.prefix(opened.language_row(language), speaker)
    built = prompt.build(ids, opened.tokenizer.assistant(TEXT), 2, layout="streaming", prefix=prefix)
    assert built.speaker == ((6 if language == "auto" else 7) if speaker else prompt.NONE)


def test_padding_changes_no_row(opened: LoadedBase, example: Callable[..., prompt.Example]) -> None:
    """A row's losses in a batch of unequal rows are those that it has alone."""
    rows = [
        example(1, seconds=0.4),
        example(2, seconds=1.5, layout="non_streaming", text=LONG_TEXT),
        example(3, in_context=True, language="auto"),
        example(4, speaker=False, cut=True),
    ]
    ids, tables = prompt.ControlIds.of(opened.config), forward.Tables(opened.talker)

    def losses(examples: list[prompt.Example]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = prompt.collate(examples, ids)
        with torch.no_grad():
            logits = forward.speech_logits(tables, batch, torch.float32)
        return forward.talker_nll(logits, batch), forward.predictor_nll(logits, batch)

    talker, predictor = losses(rows)
    alone = [losses([r]) for r in rows]
    assert talker.sub(torch.cat([t for t, _ in alone])).abs().max() < 1e-5
    assert predictor.sub(torch.cat([p for _, p in alone])).abs().max() < 1e-5


def stepwise_nll(opened: LoadedBase, given: dict[str, torch.Tensor], codes: torch.Tensor) -> tuple[float, float]:
    """Means of the talker's and the predictor's NLL, frame by frame through the stock modules with their caches."""
    talker, predictor = opened.talker, opened.talker.code_predictor
    end = opened.config.talker_config.codec_eos_token_id
    trailing = given["trailing_text_hidden"]
    x, cache = given["inputs_embeds"], None
    talker_terms, predictor_terms = [], []
    for k in range(len(codes) + 1):
        out = talker.model(inputs_embeds=x, past_key_values=cache, use_cache=True)
        cache, state = out.past_key_values, out.last_hidden_state[:, -1:]
        label = int(codes[k, 0]) if k < len(codes) else end
        logits = talker.codec_head(state)[0, 0]
        assert logits.shape == (3072,)
        talker_terms.append(-torch.log_softmax(logits.double(), -1)[label])
        if k == len(codes):
            break
        frame = codes[k]
        embedded = talker.get_input_embeddings()(frame[:1]).unsqueeze(0)
        step = predictor(inputs_embeds=torch.cat([state, embedded], 1), use_cache=True)
        for i in range(1, len(frame)):
            predictor_terms.append(-torch.log_softmax(step.logits[0, -1].double(), -1)[frame[i]])
            if i + 1 < len(frame):
                step = predictor(
                    input_ids=frame[i : i + 1].unsqueeze(0),
                    past_key_values=step.past_key_values,
                    use_cache=True,
                    generation_steps=step.generation_steps,
                )
        x = embedded.sum(1, keepdim=True)
        for i, table in enumerate(predictor.get_input_embeddings()):
            x = x + table(frame[i + 1]).view(1, 1, -1)
        x = x + (trailing[:, k : k + 1] if k < trailing.shape[1] else given["tts_pad_embed"])
    return float(torch.stack(talker_terms).mean()), float(torch.stack(predictor_terms).mean())


@pytest.mark.parametrize("case", [c for c in CASES if c.voice != "shorter"], ids=lambda c: f"{c.language}-{c.layout}-{c.voice}")
def test_likelihoods_equal_a_stepwise_computation(
    case: Case, stock: Stock, opened: LoadedBase, voice: Any, example: Callable[..., prompt.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On recordings, the end included, over the whole vocabulary; rows of different lengths in one call."""
    texts = [TEXT, LONG_TEXT]
    recordings = [example(11 + i, text=t, seconds=0.3 + 0.3 * i) for i, t in enumerate(texts)]
    reference = Path("reference.wav") if case.voice != "none" else None
    rows = [
        SpeechRow(
            line=i + 1,
            text=t,
            role=e.role,
            body=e.body,
            codes=e.codes,
            seconds=1.0,
            trimmed=0.0,
            speaker="",
            reference=reference,
            reference_text=recipes.REFERENCE_TEXT if case.in_context else None,
            cut=False,
        )
        for i, (t, e) in enumerate(zip(texts, recordings, strict=True))
    ]
    known = {} if reference is None else {reference: voice.x_vector}
    data = SpeechData("data", case.language, rows, x_vectors=known, reference_codes=dict.fromkeys(known, voice.codes))
    ours = teacher_forced(opened, forward.Tables(opened.talker), data, case.layout, None)
    for text, recording, (_, item) in zip(texts, recordings, ours, strict=True):
        with torch.no_grad():
            talker, predictor = stepwise_nll(opened, stock.prompt(case, text, monkeypatch), recording.codes)
        assert item.talker_nll == pytest.approx(talker, abs=1e-4)
        assert item.predictor_nll == pytest.approx(predictor, abs=1e-4)
