"""Recipes: YAML text in, a validated `Recipe` out. Never imports torch, never touches weights or audio."""

from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.validate import LoadedRecipe, inspect, load

__all__ = ["LoadedRecipe", "Recipe", "inspect", "load"]
