"""Options that `evaluate` and `compare` share: what is measured, on which data, how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qrecipe.cli.options import FILE

if TYPE_CHECKING:
    from qrecipe.recipe import LoadedRecipe
    from qrecipe.recipe.evaluator import Evaluators
    from qrecipe.recipe.recipe import Evaluation
    from qrecipe.verbs.evaluate import EvaluationRequest

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--data", required=True, type=FILE, help="A speech manifest; with --recipe, the name of one of its datasets."),
    click.option("--metrics", default="nll", show_default=True, help="Separated by commas; nll is talker_nll and predictor_nll."),
    click.option("--recipe", type=FILE, help="Take evaluators, settings and languages from this recipe."),
    click.option("--locked", is_flag=True, help="With --recipe: refuse whatever differs from the lock beside it."),
    click.option(
        "--layout",
        type=click.Choice(["streaming", "non_streaming", "both"]),
        default="streaming",
        show_default=True,
        help="How text meets frames.",
    ),
    click.option(
        "--prompt",
        type=click.Choice(["default", "x_vector", "in_context", "both"]),
        default="default",
        show_default=True,
        help="How the voice is given; default: in-context where its text is known.",
    ),
    click.option("--language", default="auto", show_default=True, help="Language whose token is given: its name or BCP 47 tag, or auto."),
    click.option("--reference", type=FILE, help="A recording of the voice, for every row."),
    click.option("--reference-text", help="What is said in it; makes the prompt in-context."),
    click.option("--seeds", default="0,1", show_default=True, help="Seeds of generated speech."),
    click.option("--prompts", type=click.IntRange(1), help="Speak the first so many rows; default: all."),
    click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Prompts whose speech is stored together."),
    click.option("--asr", metavar="MODEL", help="Recogniser for cer and wer, as `evaluators.asr.model` of a recipe: wheel:whisper-base."),
    click.option(
        "--asr-backend", type=click.Choice(["faster_whisper", "transformers"]), default="faster_whisper", show_default=True, help="Runs it."
    ),
    click.option("--speaker", metavar="BACKEND", default="base", show_default=True, help="Speaker encoder: base, resemblyzer, or a WavLM."),
    click.option("--mos", type=click.Choice(["plcmos", "dnsmos"]), default="plcmos", show_default=True, help="Model of opinion scores."),
    click.option("--bcp47", metavar="TAG", help="BCP 47 tag of the texts' language, where the model does not know it by name."),
    click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, help="Level of the intervals."),
    click.option("--out", type=FILE, help="Folder for the result, the samples and report.html; what is there is not done again."),
)


def measuring_options(function: F) -> F:
    """All of them, in order."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class MeasuringOptions:
    """Values of the options, by their names."""

    data: Path
    metrics: str
    recipe: Path | None
    locked: bool
    layout: str
    prompt: str
    language: str
    reference: Path | None
    reference_text: str | None
    seeds: str
    prompts: int | None
    batch: int
    asr: str | None
    asr_backend: str
    speaker: str
    mos: str
    bcp47: str | None
    confidence: float
    out: Path | None

    def evaluation(self) -> Evaluation:
        """The options as the section `evaluation` of a recipe."""
        from qrecipe.recipe.recipe import Evaluation

        try:
            seeds = [int(s) for s in self.seeds.split(",")]
        except ValueError:
            raise click.BadParameter("seeds are whole numbers separated by commas", param_hint="--seeds") from None
        layouts = ["streaming", "non_streaming"] if self.layout == "both" else [self.layout]
        prompt = None if self.prompt == "default" else self.prompt
        section = {"seeds": seeds, "prompts": self.prompts, "batch": self.batch, "layouts": layouts, "prompt": prompt}
        return Evaluation.model_validate(section)

    def evaluators(self) -> Evaluators:
        """The options as the section `evaluators` of a recipe."""
        from qrecipe.recipe.evaluator import Evaluators

        asr = {"model": self.asr, "backend": self.asr_backend} if self.asr else None
        named = self.speaker in ("base", "resemblyzer")
        speaker = {"backend": self.speaker} if named else {"backend": "wavlm", "model": self.speaker}
        return Evaluators.model_validate({"asr": asr, "speaker": speaker, "mos": {"backend": self.mos}})

    def request(self, probe_gates: bool = False) -> EvaluationRequest:
        """The request that the options make, over those of the recipe if one is named. Raises `UserError`."""
        from qrecipe.recipe import load
        from qrecipe.verbs.evaluate import EvaluationRequest, from_recipe

        language = self.language.lower()
        request = EvaluationRequest(
            data=self.data,
            metrics=self.metrics.split(","),
            language=language,
            settings=self.evaluation(),
            reference=self.reference,
            reference_text=self.reference_text,
            evaluators=self.evaluators(),
            tags={language: self.bcp47} if self.bcp47 else {},
            confidence=self.confidence,
            out=self.out,
        )
        if self.recipe is None:
            if self.locked:
                raise click.BadParameter("there is a lock beside a recipe: give --recipe", param_hint="--locked")
            return request
        loaded = load(self.recipe)
        if self.locked:
            _require_lock(loaded)
        return from_recipe(loaded, str(self.data), request, probe_gates)


def _require_lock(loaded: LoadedRecipe) -> None:
    from qrecipe.hashes import FileHashes
    from qrecipe.plan import make_plan
    from qrecipe.plan.complete import with_identity
    from qrecipe.run.locking import require_lock

    hashes = FileHashes()
    require_lock(with_identity(make_plan(loaded, hashes), hashes))
