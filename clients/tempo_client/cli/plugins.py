"""The commands that packages add to `tempo`, by entry points of the group `tempo.commands`.

A module is imported when its command is called and not before, so that `tempo --help` imports
neither torch nor vLLM. Therefore the help lines of our own commands stand here.

An entry point names a function. It takes the list of arguments and may return an exit code, or it
takes nothing.
"""

import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint

import typer

from tempo_client.cli.output import USAGE, fail

HELP = {
    "demo": "Run the whole loop on a toy model.",
    "doctor": "Check a deployment and say how to repair it.",
    "serve": "Serve a model with vLLM and let it learn.",
    "settings": "List the settings with their values and meanings.",
    "study": "Compare TEMPO with other methods on your own questions.",
    "worker": "Run the worker, the process that trains.",
}
PASS_ARGUMENTS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}


def add_plugins(app: typer.Typer, points: Iterable[EntryPoint]) -> None:
    """Add the commands at these entry points.

    For a command of another package the help shows its entry point.
    """
    for point in points:
        add = app.command(
            point.name, help=_help(point), add_help_option=False, context_settings=PASS_ARGUMENTS_ON
        )
        add(_command(point))


def _command(point: EntryPoint) -> Callable[[typer.Context], None]:
    def run(ctx: typer.Context) -> None:
        try:
            function = point.load()
        except ImportError as error:
            if (error.name or "").startswith("tempo_"):
                raise  # a defect of ours, not a missing package
            fail(f"{error.name} is missing; {_remedy(point)}")
        if inspect.signature(function).parameters:
            raise typer.Exit(function(ctx.args) or 0)
        if ctx.args:
            typer.echo(f"{_help(point)} It has no options: TEMPO_ variables set it up.")
            raise typer.Exit(0 if ctx.args[0] in ("--help", "-h") else USAGE)
        function()

    return run


def _help(point: EntryPoint) -> str:
    return HELP.get(point.name, f"Run {point.value}.")


def _remedy(point: EntryPoint) -> str:
    if point.name not in HELP:
        return f"install it, because {point.value} needs it"
    extra = f",{point.name}" if point.name in ("demo", "study") else ""
    return f"pip install 'vllm-tempo[server,trainer{extra}]'"
