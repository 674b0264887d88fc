"""The replacements of a recipe's languages, out of the recipe or out of the file that it names."""

from __future__ import annotations

from qrecipe.errors import Problems, RecipeError
from qrecipe.files import is_file
from qrecipe.inputs.replacements import Replacements
from qrecipe.recipe import LoadedRecipe
from qrecipe.source import bounds
from qrecipe.source.reader import read_file


def replacements_of(loaded: LoadedRecipe, language: str) -> tuple[Replacements, Problems]:
    """Replacements of a language of the recipe; none for a language of the base, or where the file has problems."""
    own = loaded.recipe.languages.get(language)
    if own is None or not own.replace:
        return Replacements(), Problems()
    if not isinstance(own.replace, str):
        return Replacements.of(own.replace), Problems()
    node, path = loaded.node.at("languages", language, "replace"), loaded.path(own.replace)
    outside = bounds.problem(path, own.replace, node, loaded.bounds)
    if outside is not None:
        return Replacements(), Problems([outside])
    if not is_file(path):
        return Replacements(), Problems([node.problem("QR040", f"{own.replace} is not there yet", None, "warning")])
    try:
        table = read_file(path, loaded.shown(own.replace)).plain()
    except RecipeError as e:
        return Replacements(), e.problems
    if not isinstance(table, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in table.items()):
        message = f'{own.replace} is no table: one `"as it is written": "as it is read"` a line'
        return Replacements(), Problems([node.problem("QR012", message, "quote both sides: numbers and `no` are no text in YAML")])
    return Replacements.of(table), Problems()
