"""The command line: one short file a verb. Reads arguments, calls the library, prints."""

from qrecipe.cli.app import main

__all__ = ["main"]
