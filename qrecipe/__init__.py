"""qrecipe: declarative recipes that adapt Qwen3-TTS to new languages.

Four values, in the order in which they come to be: a `Recipe` (what was asked), a `Plan` (what will happen),
a run (what happened, as events) and a bundle (what is handed on). Importing this package imports none of them.

Programs and notebooks use `qrecipe.api`, whose functions are named in docs/python.md.
"""

__version__ = "0.1.0"
