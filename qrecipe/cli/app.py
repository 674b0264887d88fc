"""The group of verbs, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import json
import keyword
import os
import sys
from typing import Any, NoReturn

import click

from qrecipe import __version__, interrupts, world
from qrecipe.cli.container import settle_user
from qrecipe.errors import EngineError, Interrupted, Place, Problem, QRecipeError, RankLost, UserError, suggest
from qrecipe.redaction import redact
from qrecipe.report.terminal import give_up, is_read, settle_streams, tell

VERBS = {
    "new": "Write a recipe for a new language.",
    "import": "Turn recordings as you have them into data for a recipe.",
    "validate": "Check recipes.",
    "plan": "Show what a recipe will do, before anything happens.",
    "show": "Print the one recipe that results from its files.",
    "diff": "Say what changed in meaning between two recipes.",
    "prepare": "Check and encode a recipe's data.",
    "run": "Run a recipe: train its stages, judge its gates, write its bundle.",
    "watch": "Show a run in a browser while it runs.",
    "search": "Try variants of a recipe, judged by ear, and write the best.",
    "evaluate": "Measure a model on recordings.",
    "compare": "Compare two models on the same recordings.",
    "say": "Speak a text.",
    "try": "Type a sentence and hear models side by side.",
    "listen": "Let people compare a model with the base, blindly.",
    "bundle": "Build or verify a bundle, or say which servers take it.",
    "pack": "Write a bundle's language as one small file.",
    "push": "Push a bundle to the Hugging Face hub.",
    "schema": "Print a JSON Schema, or write all of them.",
    "explain": "Say what a problem's code means and what to do.",
    "doctor": "Say what is installed and where a base is.",
    "completion": "Print a script that completes commands in a shell.",
    "gc": "List or delete what no run refers to.",
}
QUICK = {"validate", "plan", "show", "diff", "explain", "schema", "completion", "new"}
"""Verbs that are done within a second and never import torch."""


class Verbs(click.Group):
    """Loads a verb's module when it is asked for, so that `validate` and `plan` never import torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of a user's work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command."""
        if cmd_name not in VERBS:
            return None
        world.require_alone(cmd_name)
        module = importlib.import_module(f"qrecipe.cli.{cmd_name}" + "_" * keyword.iskeyword(cmd_name))
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests the nearest verb for one that does not exist."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise click.UsageError(f"no verb is called `{args[0]}`; {suggest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Reads the arguments. click would print a line at a signal, which fails where the terminal is gone, and end with 1."""
        try:
            return super().make_context(*arguments, **settings)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb; what ends one rank of several ends all. A signal as above."""
        try:
            with world.reported():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except BrokenPipeError:
            if is_read(sys.stdout):  # it was another pipe
                raise RuntimeError("another program closed its end of a pipe") from None
            give_up(sys.stdout)
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="qrecipe")
def app() -> None:
    """Declarative recipes that adapt Qwen3-TTS to new languages."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with the code of what happened."""
    try:
        _main(arguments)
    except SystemExit as e:
        world.quit_(e.code)
        raise


def _main(arguments: list[str] | None) -> NoReturn:
    interrupts.install()
    settle_streams()
    settle_user()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # which it looks for in every installed package, for 30 ms
    # a thread that waits for another one soon sleeps: on a core that another process uses too, it would spin away most of the time
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    args = sys.argv[1:] if arguments is None else arguments
    if arguments is None and not QUICK.isdisjoint(args[:1]):
        gc.disable()  # an eighth of such a verb's time would go into looking for garbage among modules that stay,
        atexit.register(gc.freeze)  # half of it at the end
    as_json = _wants_json(args)
    try:
        code = app.main(args=args, prog_name="qrecipe", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as e:
        _problems(e.problems, as_json)
        sys.exit(e.exit_code)
    except click.ClickException as e:
        _problems([_usage(e)], as_json)
        sys.exit(2)
    except (KeyboardInterrupt, Interrupted):
        _interrupted()
    except click.Abort as e:  # click takes the end of any file for Ctrl-D at a prompt
        if isinstance(e.__cause__, EOFError):
            _unexpected(e.__cause__, as_json)
        _interrupted()
    except RankLost as e:  # also where a launcher has ended this process with a signal because of it
        _failed(e.message, as_json, "error")
        sys.exit(e.exit_code)
    except Exception as e:
        _unexpected(e, as_json)


def _interrupted() -> NoReturn:
    if not world.rank() or world.joined():  # a verb of one process says it in the first of those that a launcher started
        tell("interrupted; what was done is kept, and the same command goes on from there")
    sys.exit(Interrupted.exit_code)


def _unexpected(e: Exception, as_json: bool) -> NoReturn:
    """Ends with what became of a signal in a library's hands, with a problem of the machine, or with an error of ours."""
    if interrupts.came():
        _interrupted()
    if isinstance(e, QRecipeError):
        _failed(e.message, as_json, "an error of the engine" if isinstance(e, EngineError) else "error")
        sys.exit(e.exit_code)
    if os.environ.get("QRECIPE_DEBUG"):
        raise e
    from qrecipe.cli.machine import problem_of

    problem = problem_of(e)
    if problem is not None:
        _problems([problem], as_json)
        sys.exit(UserError.exit_code)
    _failed(f"{type(e).__name__}: {e}", as_json, "an error that qrecipe did not expect", "QRECIPE_DEBUG=1 shows where")
    sys.exit(1)


def _wants_json(args: list[str]) -> bool:
    return "--format=json" in args or any(a == "--format" and b == "json" for a, b in itertools.pairwise(args))


def _usage(e: click.ClickException) -> Problem:
    context = getattr(e, "ctx", None)
    where = context.command_path if context is not None else "qrecipe"
    return Problem("QR070", e.format_message().rstrip("."), Place(where), f"`{where} --help` shows the arguments")


def _problems(problems: list[Problem], as_json: bool) -> None:
    from qrecipe.report.problems import summary
    from qrecipe.report.problems import tell as tell_problems

    if as_json:
        print_json({"problems": [p.as_json() for p in problems]}, indent=None)
    tell_problems(problems)
    tell(summary(problems))


def _failed(message: str, as_json: bool, what: str, help_: str | None = None) -> None:
    message = redact(message)
    if as_json:
        print_json({"error": message}, indent=None)
    tell(f"{what}: {message}" + (f"\n  help: {help_}" if help_ else ""))


def print_json(value: Any, indent: int | None = 2) -> None:
    """JSON on standard output; where nobody reads it any more, nothing."""
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")  # an escape of JSON is right in every encoding
    try:
        print(json.dumps(value, indent=indent, ensure_ascii=plain), flush=True)
    except BrokenPipeError:
        give_up(sys.stdout)
