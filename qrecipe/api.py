"""The Python interface: five functions for notebooks and programs. Everything else of the package may change without notice.

    from qrecipe import api

    recipe = api.load("recipes/first.yaml")
    print(api.plan(recipe).plan.stages)
    outcome = api.run(recipe)
    sound = api.say(str(outcome.bundle), "Selamat pagi.", language="malay", reference="voice.wav")

Each imports what it needs when it is called, so that importing this module takes no torch. What is wrong with a recipe, its data
or an argument is raised as `qrecipe.errors.UserError`, which holds every problem with its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qrecipe.run.events import Listener

if TYPE_CHECKING:
    from qrecipe.inputs.documents.results import EvaluationResult
    from qrecipe.plan import Planned
    from qrecipe.recipe import LoadedRecipe
    from qrecipe.run.record import Outcome
    from qrecipe.verbs.say import SpokenText

__all__ = ["evaluate", "load", "plan", "run", "say"]


def load(file: str | Path, sets: Sequence[str] = ()) -> LoadedRecipe:
    """Reads and checks a recipe.

    Args:
        sets: values to change, as `--set` takes them: `stages.text.epochs=3`.

    Raises `RecipeError` with every problem.
    """
    from qrecipe.recipe import load as load_recipe

    return load_recipe(file, sets)


def plan(recipe: LoadedRecipe) -> Planned:
    """Plans a recipe without torch and without weights; `.plan` is the plan, `.problems` what keeps it from being carried out.

    Raises `BaseModelError` for a base that can never be one.
    """
    from qrecipe.plan import make_plan

    return make_plan(recipe)


def run(
    recipe: LoadedRecipe,
    *,
    runs: str | Path = "runs",
    bundles: str | Path = "bundles",
    until: str | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Trains the stages of a recipe, judges its gates and writes its bundle. What was done before is reused.

    Args:
        runs: folder of run folders.
        bundles: folder of bundles.
        until: stop after this stage.
        listener: gets every event.

    Returns how it went: `.status`, `.bundle` (a path, or None if a gate did not pass), `.stages` and `.accept` with verdicts.
    Raises `UserError`, and `EngineError` for a promise that did not hold.
    """
    from qrecipe.plan import complete_plan
    from qrecipe.run.engine import RunOptions
    from qrecipe.run.engine import run as carry_out

    return carry_out(complete_plan(recipe), RunOptions(Path(runs), Path(bundles), until=until), listener)


def evaluate(
    model: str,
    recipe: LoadedRecipe,
    data: str,
    metrics: Sequence[str] = ("talker_nll", "predictor_nll"),
    *,
    out: str | Path | None = None,
    listener: Listener | None = None,
) -> EvaluationResult:
    """Measures a model on a dataset of a recipe, with the recipe's evaluators and settings.

    Args:
        model: a base, a bundle, or `runs/NAME@STAGE`.
        data: name of the dataset.
        out: folder of the result, the samples and a page.

    Raises `UserError`.
    """
    from qrecipe.verbs import evaluate as verb

    request = verb.EvaluationRequest(
        data=Path(data),
        metrics=list(metrics),
        language="auto",
        settings=recipe.recipe.evaluation,
        out=Path(out) if out is not None else None,
    )
    return verb.evaluate(model, verb.from_recipe(recipe, data, request), listener)


def say(
    model: str,
    text: str,
    *,
    reference: str | Path | tuple[str | Path, str],
    language: str = "auto",
    layout: Literal["streaming", "non_streaming"] = "streaming",
    seed: int = 0,
) -> SpokenText:
    """Speaks a text; `.audio` is [samples] float32 at `.rate` Hz.

    Args:
        model: a base, a bundle, or `runs/NAME@STAGE`.
        reference: a recording of the voice; with its text, as (recording, text), the prompt is in-context.
        language: as the model lists it, its BCP 47 tag, or `auto`.

    Raises `UserError`.
    """
    from qrecipe.verbs.say import Speech, spoken_by

    recording, words = reference if isinstance(reference, tuple) else (reference, None)
    return spoken_by(model, Speech(text, language, Path(recording), words, layout, seed))
