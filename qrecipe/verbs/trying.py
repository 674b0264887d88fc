"""`try`: a page with a box for a sentence, and what several models make of it, side by side.

Sounds that are uploaded are read as a stranger's: libsndfile alone, checked before memory is taken, 30 seconds at most. The page loads
nothing from elsewhere and tells nobody that it is used.
"""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import stft

from qrecipe.data.audio import Audio, AudioProblem, load, resample
from qrecipe.data.speech import SpeechRow
from qrecipe.errors import BaseModelError, Place, Problem, Problems, RecipeError, UserError
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.metrics import text_and_transcript
from qrecipe.evaluate.samples import Sample
from qrecipe.hashes import FileHashes
from qrecipe.inputs.tokenizer import clean_text
from qrecipe.model.generate import speech as generated
from qrecipe.model.speak import Utterance
from qrecipe.qwen3 import SAMPLE_RATE, Layout
from qrecipe.recipe import load as load_recipe
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.metrics import spec_of
from qrecipe.report.page import marked
from qrecipe.report.serve import address_taken
from qrecipe.run.events import Events
from qrecipe.run.models import language_of, open_argument
from qrecipe.run.session import Session

MAX_SECONDS = 30.0
"""Of a voice."""
MAX_TEXT = 1000
"""Characters of a text."""
READABLE = ":root { --neutral-400: #5c6066 } .dark { --neutral-400: #bbbbc2 }"
"""Small texts of Gradio's player are too pale by day."""
SPECTRUM_DB = 80.0
"""Range of the spectrogram."""


@dataclass(frozen=True)
class VoiceChoice:
    """A recording that gives the voice."""

    name: str
    file: Path
    text: str | None
    """Its text; makes the prompt in-context."""


@dataclass(frozen=True)
class Reading:
    """Speech that a model made of a text."""

    audio: Audio
    """[samples] at 24 kHz."""
    spectrogram: NDArray[np.uint8]
    """[frequencies, frames], low frequencies at the bottom."""
    note: str
    """HTML: how it was spoken, and what the recogniser heard with the differences marked."""


@dataclass
class LoadedModels:
    """Models in memory, with the voices and the recogniser of a recipe."""

    sessions: dict[str, Session]
    """By the MODEL argument."""
    voices: list[VoiceChoice]
    choice: EvaluatorChoice
    warnings: Problems = field(default_factory=Problems)
    """Why nothing listens, where the recipe's recogniser is not installed."""
    _evaluators: dict[str, EvaluatorSet] = field(default_factory=dict)

    @property
    def languages(self) -> list[str]:
        """Languages that some model lists, and `auto`; those that not all list, which are the new ones, first."""
        listed = [s.opened.config.talker_config.codec_language_id for s in self.sessions.values()]
        every = {k for languages in listed for k in languages}
        return [*sorted(every, key=lambda k: (all(k in languages for languages in listed), k)), "auto"]

    def speak(self, model: str, text: str, language: str, voice: VoiceChoice, layout: Layout, seed: int) -> Reading:
        """One model's reading. Raises `UserError` with a sentence for the page."""
        session, text = self.sessions[model], clean_text(text)
        opened = session.opened
        why = opened.tokenizer.text_problem(text) if text else "there is no text"
        if why is None and len(text) > MAX_TEXT:
            why = f"the text has more than {MAX_TEXT:,} characters"
        if why is not None:
            raise UserError(Problem("QR042", why, Place("text")))
        try:
            known = language_of(session, language, Place("language"))
        except BaseModelError:
            known = "auto"
        utterance = self._utterance(session, text, known, voice)
        ((_, codes),) = generated.speak(opened, generated.prepare(opened, [generated.Request(utterance, layout, seed)]))
        ((sound, rate),) = generated.sound(opened, [codes], [utterance])
        audio = resample(sound, rate)
        notes = [f"{len(audio) / SAMPLE_RATE:.1f} s" + ("" if known == language else f"; does not know {html.escape(language)}, so auto")]
        heard = self._heard(model, text, known if known != "auto" else language, audio, codes)
        return Reading(audio, spectrogram(audio), "<br>".join([*notes, *heard]))

    def _utterance(self, session: Session, text: str, language: str, voice: VoiceChoice) -> Utterance:
        try:
            recording = load(voice.file, MAX_SECONDS).samples
        except AudioProblem as e:
            raise UserError(Problem("QR043", f"the voice: {e}", Place("voice"))) from None
        spoken = clean_text(voice.text) if voice.text and voice.text.strip() else None
        why = session.opened.tokenizer.text_problem(spoken) if spoken else None
        if why is not None:
            raise UserError(Problem("QR042", why.replace("the text", "the text of the voice", 1), Place("voice")))
        codes = session.opened.encode([recording])[0] if spoken else None
        return Utterance(text, language, session.opened.x_vector(recording), spoken, codes)

    def _heard(self, model: str, text: str, language: str, audio: Audio, codes: Any) -> list[str]:
        """The transcript with its differences to the text, where there is a recogniser."""
        if self.choice.settings.asr is None or language == "auto":
            return []
        session = self.sessions[model]
        if model not in self._evaluators:
            self._evaluators[model] = EvaluatorSet(session.opened, session.base.identity, self.choice, session.hashes)
        evaluators = self._evaluators[model]
        row = SpeechRow(1, text, [], [], codes, len(audio) / SAMPLE_RATE, 0.0, "", None, None, cut=False)
        sample = Sample(row, audio, codes, len(codes), language, evaluators)
        return ["heard: " + marked(*text_and_transcript(sample))]


def spectrogram(audio: Audio) -> NDArray[np.uint8]:
    """Short-time spectrum as a picture, black where it is 80 dB below the loudest."""
    _, _, spectrum = stft(audio, SAMPLE_RATE, nperseg=512, noverlap=384)
    levels = 20 * np.log10(np.maximum(np.abs(spectrum), 1e-10))
    scaled = np.clip((levels - levels.max()) / SPECTRUM_DB + 1, 0, 1)
    picture: NDArray[np.uint8] = (scaled[::-1] * 255).astype(np.uint8)
    return picture


def open_trial(models: Sequence[str], recipe: Path | None, asr: str | None) -> LoadedModels:
    """Opens models for a page. Raises `UserError`.

    Args:
        recipe: its voices can be chosen, and its recogniser listens.
        asr: a recogniser, as `evaluators.asr.model` of a recipe, in place of the recipe's.
    """
    voices: list[VoiceChoice] = []
    settings, root, tags = Evaluators(), Path.cwd(), {}
    if recipe is not None:
        loaded = load_recipe(recipe)
        settings, root = loaded.recipe.evaluators, loaded.root
        tags = loaded.recipe.tags()
        for name, dataset in loaded.recipe.datasets.items():
            if isinstance(dataset, SpeechDataset) and dataset.reference is not None:
                voices.append(VoiceChoice(f"{name} ({dataset.language})", loaded.path(dataset.reference), dataset.reference_text))
    if asr is not None:
        settings = Evaluators.model_validate({**settings.model_dump(by_alias=True), "asr": {"model": asr}})
    hashes = FileHashes()
    sessions = {model: open_argument(model, hashes, Events(None)) for model in dict.fromkeys(models)}
    choice = EvaluatorChoice(settings, root, tags)
    if settings.asr is None:
        return LoadedModels(sessions, voices, choice)
    first = next(iter(sessions.values()))
    missing = EvaluatorSet(first.opened, first.base.identity, choice, hashes).missing(spec_of("cer"))
    if missing is not None and asr is not None:
        raise RecipeError(missing)
    if missing is None:
        return LoadedModels(sessions, voices, choice)
    deaf = replace(choice, settings=settings.model_copy(update={"asr": None}))
    return LoadedModels(sessions, voices, deaf, Problems([replace(missing, severity="warning")]))


@contextmanager
def served(trial: LoadedModels, host: str, port: int) -> Iterator[str]:
    """Serves the page and gives its address. What is uploaded is deleted at the end. Raises `UserError` where the address is taken."""
    with tempfile.TemporaryDirectory(prefix="qrecipe-try-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_DISABLE_TELEMETRY": "1"}
        for package in ("gradio", "starlette"):  # what they say of each other is no news to a person
            warnings.filterwarnings("ignore", module=package)
        import gradio

        page = build_page(trial)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port or None,
                share=False,
                theme=_theme(),
                css=READABLE,
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=64 * gradio.FileSize.MB,
            )
        except OSError as e:
            raise address_taken(host, port, e) from None
        try:
            yield str(address)
        finally:
            page.close(verbose=False)


def _theme() -> Any:
    """Gradio's with fonts of this machine, and with small texts and the button dark enough to be read by everybody."""
    import gradio

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(body_text_color_subdued="*neutral_600", button_primary_background_fill="*primary_700")


def _picture(spectrogram: NDArray[np.uint8], model: str) -> str:
    """HTML of a spectrogram."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(spectrogram).save(file, "PNG")
    about = html.escape(f"Spectrogram of what {model} said: low sounds at the bottom")
    content = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{about}" style="width: 100%; height: 10rem" src="data:image/png;base64,{content}">'


def build_page(trial: LoadedModels) -> Any:
    """The page as Gradio's blocks."""
    import gradio

    models, names = list(trial.sessions), [v.name for v in trial.voices]
    with gradio.Blocks(title="qrecipe try", analytics_enabled=False) as page:
        gradio.Markdown("# qrecipe try")
        text = gradio.Textbox(label="Text", lines=2, max_length=MAX_TEXT)
        with gradio.Row():
            language = gradio.Dropdown(trial.languages, value=trial.languages[0], label="Language")
            layout = gradio.Dropdown(["streaming", "non_streaming"], value="streaming", label="Layout")
            seed = gradio.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed")
        with gradio.Row():
            chosen = gradio.Dropdown(names, value=names[0] if names else None, label="Voice of the recipe", visible=bool(names))
            label = "Your own voice (used if there is one)"
            own = gradio.Audio(sources=["upload", "microphone"], type="filepath", label=label, buttons=[])
            own_text = gradio.Textbox(label="What your own voice says (optional)", max_length=MAX_TEXT)
        button = gradio.Button("Speak", variant="primary")
        outputs: list[Any] = []
        with gradio.Row(visible=False) as readings:
            for model in models:
                with gradio.Column(min_width=240):
                    gradio.HTML(f"<h2>{html.escape(model)}</h2>")
                    audio = gradio.Audio(label=f"Speech of {model}", type="numpy", interactive=False, buttons=["download"])
                    outputs += [audio, gradio.HTML()]

        def speak(*values: Any) -> list[Any]:
            words, tongue, how, number, named, upload, upload_text = values
            voice = next((v for v in trial.voices if v.name == named), None)
            if upload is not None:
                voice = VoiceChoice("own", Path(upload), upload_text or None)
            if voice is None:
                raise gradio.Error("give a voice: upload a recording, or record one")
            shown: list[Any] = [gradio.Row(visible=True)]
            try:
                for model in models:
                    reading = trial.speak(model, words or "", tongue, voice, how, int(number or 0))
                    shown += [(SAMPLE_RATE, reading.audio), _picture(reading.spectrogram, model) + reading.note]
            except UserError as e:
                raise gradio.Error(e.problems[0].message, print_exception=False) from None
            return shown

        inputs = [text, language, layout, seed, chosen, own, own_text]
        gradio.on([button.click, text.submit], speak, inputs, [readings, *outputs], api_name="speak")
    return page
