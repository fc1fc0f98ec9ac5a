"""What the commands share: a connection, results on stdout, the story on stderr, exit codes."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tempo_client import errors
from tempo_client._client import Tempo
from tempo_client._credentials import find_base_url
from tempo_client._operations import POLL_SECONDS
from tempo_client.types import Job, Resource

FAILED, USAGE, UNREACHABLE, AUTH, GATE = 1, 2, 3, 4, 5
INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

results = Console(highlight=False)
story = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)


class Commands(TyperGroup):
    """Commands that end with a line on stderr and an exit code where the SDK raises an error."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except errors.APIConnectionError:
            message = "does not answer; start one with `tempo serve MODEL`, or set TEMPO_BASE_URL"
            fail(f"{find_base_url()} {message}", UNREACHABLE)
        except errors.TempoError as error:
            fail(str(error), _exit_code(error))


def connect(ctx: typer.Context) -> Tempo:
    """Return a client that is closed when the command ends."""
    made: Callable[[], Tempo] = ctx.obj or Tempo  # tests bring their own
    return ctx.with_resource(made())


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command with a message."""
    story.print(f"tempo: {message}")
    raise typer.Exit(code)


def show(
    value: Any, rows: Iterable[Sequence[object]], *, as_json: bool, columns: Sequence[str] = ()
) -> None:
    """Print JSON, a table on a terminal, or lines of cells separated by tabs."""
    if as_json:
        typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))
    elif results.is_terminal:
        table = Table(*columns, box=None, show_header=bool(columns), pad_edge=False)
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        results.print(table)
    else:
        for row in rows:
            typer.echo("\t".join(str(cell) for cell in row))


def rows_of(value: Resource, *names: str) -> list[tuple[str, object]]:
    """Return fields of a value as rows: these, or all that it has."""
    chosen = names or [f.name for f in dataclasses.fields(value) if f.name != "extra"]
    return [(name.replace("_", " "), getattr(value, name)) for name in chosen]


def finish(tempo: Tempo, job: Job, *, wait: bool, as_json: bool) -> None:
    """Show a job, at its end if `wait`, and end the command as the job ended."""
    if wait and not tempo.status().worker.alive:
        story.print("no worker runs yet, the job waits for one; `tempo doctor` says more")
    job = follow(tempo, job) if wait else job
    told = (job.error and job.error.message) or job.result.get("summary", "")
    show(job, [("job", job.id), ("status", job.status), ("result", told)], as_json=as_json)
    if wait and job.status != "succeeded":
        raise typer.Exit(FAILED)
    if wait and job.result.get("decision") == "rejected":
        raise typer.Exit(GATE)


def follow(tempo: Tempo, job: Job) -> Job:
    """Tell a job's events and show its progress until it ends; Ctrl-C leaves it running."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    last, told = None, ""
    try:
        with Progress(*columns, console=story, disable=not story.is_terminal) as bar:
            task = bar.add_task(job.mode, total=None)
            while True:
                job = tempo.jobs.retrieve(job.id)
                for event in tempo.jobs.events(job.id, after=last):
                    story.print(f"{clock(event.created_at)} {event.message}")
                    last = event.id
                done = job.progress
                bar.update(task, completed=done.get("iteration", 0), total=done.get("of"))
                text = f"{job.mode}: {done.get('phase', job.status)}"
                bar.update(task, description=text)
                text += f" {done['iteration']} of {done['of']}" if done.get("of") else ""
                if not story.is_terminal and text != told:
                    story.print(text)
                told = text
                if job.is_finished:
                    return job
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        fail(f"the job goes on; follow it again with `tempo watch {job.id}`", INTERRUPTED)


def remark(line: dict[str, Any]) -> str:
    """Return a remark of the server on one line of a file."""
    more = f" and {line['count'] - 1} more" if line.get("count", 1) > 1 else ""
    return f"line {line.get('line', '?')}{more}: {line.get('message', line)}"


def clock(moment: int | None) -> str:
    """Return a time of the server in this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else "-"


def _exit_code(error: errors.TempoError) -> int:
    if getattr(error, "code", None) == "gate_failed":
        return GATE
    no_access = errors.AuthenticationError, errors.PermissionDeniedError, errors.ConfigurationError
    return AUTH if isinstance(error, no_access) else FAILED


def _plain(value: Any) -> Any:
    if isinstance(value, Resource):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return fields | fields.pop("extra")
    return [_plain(item) for item in value] if isinstance(value, list) else value
