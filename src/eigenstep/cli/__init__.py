"""The command line: one file per command, imported only when that command runs, so that --help needs no torch."""

import importlib
import sys
import traceback
from typing import Any

import click

from eigenstep import __version__
from eigenstep.cli import streams
from eigenstep.cli.blame import Blamed, blamed
from eigenstep.errors import EigenstepError, nearest

COMMANDS = {
    "check": "What to write for the lr, and why, in under a minute, from FILE.py:FUNCTION.",
    "predict": "What a rule will do on given eigenvalues: limit, rate, counts.",
    "tune": "The settings of a rule that are best on given eigenvalues.",
    "measure": "The top eigenvalues of your own model, certified, from FILE.py:FUNCTION.",
    "diagnose": "What your own optimizer will do on your own model, from FILE.py:FUNCTION.",
    "recommend": "The learning rate for your own optimizer on your own model, from FILE.py:FUNCTION.",
    "race": "Several rules on one problem: figure and table.",
    "article": "The article's experiments: printed, measured and predicted counts; figures.",
    "claims": "The article's claims, each judged by a number computed live.",
    "explore": "An interactive page: race the rules, see your own spectrum or log in it.",
    "demo": "The main job: every prediction beside what really happens.",
}

_BAD_INPUT, _INTERRUPTED = 2, 130


class LazyGroup(click.Group):
    """A group that knows the names and one-line helps of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a reader meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of that name and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"eigenstep.cli.{cmd_name}").command
        if not any(option.name == "debug" for option in command.params):
            command.params.append(_debug_option())
        return _examples_unwrapped(command)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what the user's code raises, or calls sys.exit with, becomes an error of ours."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, KeyboardInterrupt, EigenstepError):
            raise
        except BaseException as error:
            raise blamed(error) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; refuse an unknown one with the nearest name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = nearest(name, COMMANDS)
            hint = f"did you mean {close!r}? " if close else ""
            raise click.UsageError(f"no such command {name!r}: {hint}there are {', '.join(COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Any = None, *more: Any, **settings: Any) -> Any:
        """Run a command; every error a user can mend becomes one line on stderr and exit code 2."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            with streams.safe():
                code = self._code(arguments, *more, **(settings | {"standalone_mode": False}))
        except streams.Full as error:
            code = _fail(f"standard output cannot be written ({error.strerror})", _BAD_INPUT)
        sys.exit(code)

    def _code(self, arguments: list[str], *more: Any, **settings: Any) -> int:
        """The exit code of a run; what failed is said."""
        try:
            code = super().main(arguments, *more, **settings)
        except (EigenstepError, click.ClickException) as error:
            if "--debug" in arguments:
                traceback.print_exception(error.__cause__ if isinstance(error, Blamed) else error)
            if not isinstance(error, click.ClickException):
                return _fail(str(error), _BAD_INPUT)
            if not isinstance(error, click.UsageError):
                return _fail(error.format_message(), _BAD_INPUT)
            where = error.ctx.command_path if error.ctx else "eigenstep"
            return _fail(f"{error.format_message()} (`{where} --help` shows what is possible)", _BAD_INPUT)
        except click.Abort:
            return _fail(
                "stopped; files that were finished are kept, whole, and nothing half-written is left", _INTERRUPTED
            )
        return code if isinstance(code, int) else 0


def _debug_option() -> click.Option:
    """--debug, which `main` looks for itself, since an error may come before any option is read."""
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


def _examples_unwrapped(command: click.Command) -> click.Command:
    """Turn the backslash and b before the examples into click's mark: docstrings are raw, so it stands there as two."""
    command.help = (command.help or "").replace("\\b", "\b")
    return command


def _fail(message: str, code: int) -> int:
    """Print one line on stderr, in which nothing steers a terminal; return the code."""
    line = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in " ".join(message.split()))
    if sys.stderr is not None:
        print(f"error: {line}", file=sys.stderr)
    return code


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.version_option(__version__, message="eigenstep %(version)s")
def main() -> None:
    r"""Predict what an optimiser will do from a model's curvature, and check it.

    \b
    eigenstep predict 1 100 --rule heavy-ball --lr 0.01 --momentum 0.9
    eigenstep demo --out results
    """


_examples_unwrapped(main)
