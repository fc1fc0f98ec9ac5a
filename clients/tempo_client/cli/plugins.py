"""Commands of other packages, by the entry-point group `tempo.commands`.

They are listed by the docstring of their module and loaded when they are called, so that
`tempo --help` imports neither torch nor vLLM. A command is a function of its arguments, or of none.
"""

import ast
import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import typer

from tempo_client.cli.output import USAGE, fail

AS_THEY_ARE = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}


def add_plugins(app: typer.Typer, points: Iterable[EntryPoint]) -> None:
    """Add the commands at these entry points."""
    for point in points:
        app.command(
            point.name, help=_what(point), add_help_option=False, context_settings=AS_THEY_ARE
        )(_runner(point))


def _runner(point: EntryPoint) -> Callable[[typer.Context], None]:
    def run(ctx: typer.Context) -> None:
        try:
            main = point.load()
        except ImportError as error:
            if (error.name or "").startswith("tempo_"):
                raise
            own = f",{point.name}" if point.name in ("demo", "study") else ""
            fail(f"{error.name} is missing; pip install 'vllm-tempo[server,trainer{own}]'")
        if inspect.signature(main).parameters:
            raise typer.Exit(main(ctx.args) or 0)
        if ctx.args:
            typer.echo(f"{_what(point)}. It has no options: TEMPO_ variables set it up.")
            raise typer.Exit(0 if ctx.args[0] in ("--help", "-h") else USAGE)
        main()

    return run


def _what(point: EntryPoint) -> str:
    """Return what the module's docstring begins with, without importing the module."""
    spec = find_spec(point.module)
    source = Path(spec.origin).read_text() if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or point.value).splitlines()[0].split(":")[0]
