"""One variant of a search in a process of its own: trained as far as its budget goes, then heard. `python -m qrecipe.verbs.trial FILE`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from qrecipe import interrupts
from qrecipe.errors import QRecipeError, UserError
from qrecipe.files import read_json, write_json
from qrecipe.plan import complete_plan
from qrecipe.recipe import load
from qrecipe.run.engine import RunOptions, run
from qrecipe.verbs.evaluate import EvaluationRequest, evaluate, from_recipe

RESULT = "result.json"


def carry_out(task: dict[str, Any]) -> None:
    """Trains and hears what a task names, and writes its values by line."""
    loaded = load(task["file"], task["sets"])
    last = loaded.recipe.stages[-1].id
    runs, out = Path(task["runs"]), Path(task["out"])
    run(complete_plan(loaded), RunOptions(runs, runs, until=last))
    search = task["search"]
    request = from_recipe(loaded, search["data"], EvaluationRequest(Path(), [search["metric"]], "auto", loaded.recipe.evaluation, out=out))
    settings = request.settings.model_copy(update={"prompts": search["prompts"]})
    request = replace(request, settings=settings, confidence=search["confidence"])
    result = evaluate(str(runs / f"{loaded.recipe.name}@{last}"), request)
    statistic = result.metrics.get(search["metric"])
    values = {str(item["line"]): item[search["metric"]] for item in result.items if item[search["metric"]] is not None}
    centre = None if statistic is None else [statistic.value, statistic.low, statistic.high]
    write_json(out / RESULT, {"values": values, "centre": centre})


def main() -> None:
    """Ends with 2 for what a person can mend, 1 for what is ours, and says it."""
    interrupts.install()
    try:
        carry_out(read_json(Path(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as e:
        sys.exit("; ".join(p.message for p in e.problems) or 2)
    except QRecipeError as e:
        sys.exit(e.message)


if __name__ == "__main__":
    main()
