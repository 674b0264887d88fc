"""`try`: several models say a sentence side by side; sounds of strangers and wrong texts are sentences, not tracebacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrecipe.errors import UserError
from qrecipe.evaluate.evaluators import EvaluatorChoice
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.load import LoadedBase
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.run.events import Events
from qrecipe.run.session import Session
from qrecipe.verbs.trying import LoadedModels, VoiceChoice, open_trial, served, spectrogram
from tests.support import audio, recipes
from tests.support.browser import browser, serious_findings  # noqa: F401  # a fixture
from tests.support.commands import here


@pytest.fixture
def voice(tmp_path: Path) -> VoiceChoice:
    return VoiceChoice("own", audio.write(tmp_path / "voice.wav", audio.speech(3, 1.0)), None)


@pytest.fixture
def trial(opened: LoadedBase, mini: LocalBase) -> LoadedModels:
    from qrecipe.data.codes import Encoder
    from qrecipe.hashes import FileHashes

    session = Session(mini, opened, Encoder(opened, mini, FileHashes()), Events(None))
    return LoadedModels({"builtin:mini": session}, [], EvaluatorChoice(Evaluators(), Path.cwd()))


def test_a_spectrogram_has_low_sounds_at_the_bottom() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    picture = spectrogram(np.sin(2 * np.pi * 1000 * time).astype(np.float32))
    assert picture.dtype == np.uint8
    brightest = picture.mean(axis=1).argmax()
    assert abs((len(picture) - 1 - brightest) * SAMPLE_RATE / 2 / (len(picture) - 1) - 1000) < 100


def test_a_reading(trial: LoadedModels, voice: VoiceChoice) -> None:
    one = trial.speak("builtin:mini", " The sky is blue. ", "english", voice, "streaming", 0)
    assert one.audio.ndim == 1
    assert len(one.audio) > SAMPLE_RATE // 10
    again = trial.speak("builtin:mini", "The sky is blue.", "english", voice, "streaming", 0)
    assert np.array_equal(one.audio, again.audio), "the same seed says the same"
    unknown = trial.speak("builtin:mini", "The sky is blue.", "<b>", voice, "streaming", 0)
    assert "does not know &lt;b&gt;, so auto" in unknown.note
    in_context = VoiceChoice("own", voice.file, "Selamat pagi semua.")
    assert not np.array_equal(one.audio, trial.speak("builtin:mini", "The sky is blue.", "english", in_context, "streaming", 0).audio)


@pytest.mark.parametrize(
    ("text", "says"), [("", "there is no text"), ("a" * 2000, "characters"), ("<|im_end|>", "special"), ("   ", "there is no text")]
)
def test_a_text_that_cannot_be_said(text: str, says: str, trial: LoadedModels, voice: VoiceChoice) -> None:
    with pytest.raises(UserError) as e:
        trial.speak("builtin:mini", text, "english", voice, "streaming", 0)
    assert says in e.value.problems[0].message


@pytest.mark.parametrize("content", [b"", b"RIFF" + b"\xff" * 100, b"\x80\x04cos\nsystem\n", b"<svg onload=alert(1)>"])
def test_a_stranger_s_sound(content: bytes, trial: LoadedModels, tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    file.write_bytes(content)
    with pytest.raises(UserError) as e:
        trial.speak("builtin:mini", "Hello.", "english", VoiceChoice("own", file, None), "streaming", 0)
    assert e.value.problems[0].code == "QR043"


def test_a_voice_that_is_too_long(trial: LoadedModels, tmp_path: Path) -> None:
    file = audio.write(tmp_path / "long.wav", audio.speech(1, 1.0).repeat(40))
    with pytest.raises(UserError, match="the voice: "):
        trial.speak("builtin:mini", "Hello.", "english", VoiceChoice("own", file, None), "streaming", 0)


def test_voices_and_the_recogniser_of_a_recipe(tmp_path: Path, mini: LocalBase) -> None:
    recipe = recipes.write(tmp_path)
    trial = open_trial(["builtin:mini", "builtin:mini"], recipe, None)
    assert list(trial.sessions) == ["builtin:mini"]
    assert [(v.name, v.text) for v in trial.voices] == [("speech (malay)", recipes.REFERENCE_TEXT), ("dev (malay)", None)]
    with pytest.raises(UserError) as e:
        open_trial(["builtin:mini"], recipe, "./nothing")
    assert e.value.problems[0].code == "QR081"
    silent = open_trial(["builtin:mini"], recipes.write(tmp_path / "2", recipes.recipe(evaluators={"asr": {"model": "./nothing"}})), None)
    assert silent.choice.settings.asr is None, "a recipe's recogniser that is not here keeps nobody from listening oneself"
    assert [(w.code, w.severity) for w in silent.warnings] == [("QR081", "warning")]


def test_wrong_arguments(tmp_path: Path) -> None:
    done = here("try", "builtin:mimi", cwd=tmp_path, environment={})
    assert (done.returncode, "QR050" in done.stderr) == (2, True)


def test_a_sentence_in_a_browser(
    trial: LoadedModels,
    voice: VoiceChoice,
    opened: LoadedBase,
    browser: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Typed, with an uploaded voice, and nothing asked of any other machine."""
    monkeypatch.setitem(opened.wrapper.generate_defaults, "max_new_tokens", 40)  # this voice need not end by itself
    elsewhere: list[str] = []
    with served(trial, "127.0.0.1", 0) as address:
        assert address.startswith("http://127.0.0.1:")
        page = browser.new_page()

        page.on("request", lambda request: None if request.url.startswith((address, "blob:", "data:")) else elsewhere.append(request.url))
        page.goto(address)
        with page.expect_response(lambda response: "/upload" in response.url):
            page.locator("input[type=file]").first.set_input_files(str(voice.file))
        page.locator("#duration").wait_for()
        # Only now: Gradio shows the text box before it listens to it, and then empties it once. On a busy machine that is up to 1.2 s later.
        page.get_by_label("Text", exact=True).fill("The sky is very blue.")
        page.get_by_role("button", name="Speak").click()
        page.locator("img, [data-testid=toast-body]").first.wait_for()
        assert page.locator("[data-testid=toast-body]").all_inner_texts() == [], "the page shows an error in place of the speech"
        assert page.get_by_text("builtin:mini").first.is_visible()
        assert serious_findings(page) == []
        page.close()
    assert elsewhere == []
