"""The rows of a recipe's languages, and whether the languages that it names exist."""

from __future__ import annotations

from qrecipe.errors import Problems, suggest
from qrecipe.inputs.bases import BaseInfo
from qrecipe.plan.values import PlannedLanguage
from qrecipe.qwen3 import FIRST_FREE_ROW, LAST_ROW
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.checks import gates_with_nodes
from qrecipe.recipe.language import language_key_problem
from qrecipe.source.reader import Node


def plan_languages(loaded: LoadedRecipe, base: BaseInfo) -> tuple[dict[str, PlannedLanguage], Problems]:
    """The recipe's languages, each with its row."""
    languages, problems = loaded.recipe.languages, Problems()
    listed = base.listed_rows()
    taken = listed | {v.token_id for v in languages.values() if isinstance(v.token_id, int)}
    planned: dict[str, PlannedLanguage] = {}
    for key, language in languages.items():
        node = loaded.node.at("languages", key)
        row = language.token_id if isinstance(language.token_id, int) else _free_row(key, node, base, taken, problems)
        if key in base.languages:
            help_ = "a recipe adds languages; use the language in `datasets` without declaring it"
            problems.append(node.key_problem("QR022", f"the base already speaks `{key}`", help_))
        if row in listed:
            owner = next((k for k, v in base.languages.items() if v == row), "a control or speaker row")
            message = f"row {row} is taken by the base: {owner}"
            problems.append(node.at("token_id").problem("QR022", message, "`auto` finds a free row"))
        for i, source in enumerate(language.init.sources):
            if base.config is not None and source not in base.languages:
                n = node.at("init", "mean_of", i) if language.init.mean_of else node.at("init", "copy")
                help_ = suggest(source, base.languages)
                problems.append(n.problem("QR020", f"the base knows no language `{source}`", help_))
        planned[key] = PlannedLanguage(bcp47=language.bcp47, token_id=row, init=language.init.sources, lead=language.lead)
    return planned, problems


def _free_row(key: str, node: Node, base: BaseInfo, taken: set[int], problems: Problems) -> int | None:
    """The lowest free row, which is taken then; None if the base is not known or has none."""
    if base.config is None:
        return None
    row = next((r for r in range(FIRST_FREE_ROW, LAST_ROW + 1) if r not in taken), None)
    if row is None:
        problems.append(node.key_problem("QR022", f"no free row is left for `{key}`"))
    else:
        taken.add(row)
    return row


def check_languages(loaded: LoadedRecipe, base: BaseInfo) -> Problems:
    """Problems of languages that gates or datasets name, and that are neither declared nor known to the base."""
    problems, recipe = Problems(), loaded.recipe
    if base.config is None:
        return problems
    used = [(gate.token, node.at("speak_as")) for gate, node in gates_with_nodes(recipe, loaded.node) if gate.token is not None]
    for name, dataset in recipe.datasets.items():
        if dataset.language != "auto":  # reported by the recipe's own checks
            used.append((dataset.language, loaded.node.at("datasets", name, "language")))
    known = {*base.languages, *recipe.languages}
    misspelled = {key.lower() for key in recipe.languages if language_key_problem(key) is not None}  # reported with its key
    for language, n in used:
        if language not in known and language not in misspelled:
            message = f"`{language}` is neither declared under `languages` nor known to the base"
            problems.append(n.problem("QR020", message, suggest(language, known)))
    return problems
