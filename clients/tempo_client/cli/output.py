"""The parts that all commands share: connection, results, messages and exit codes.

Results go to stdout. Messages and progress go to stderr, so that a script can read stdout.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tempo_client import errors
from tempo_client._client import Tempo
from tempo_client._credentials import find_base_url, trusts_environment
from tempo_client._operations import POLL_SECONDS
from tempo_client.cli import progress
from tempo_client.cli.line_errors import listing
from tempo_client.types import Job, Resource

FAILED = 1
USAGE = 2
UNREACHABLE = 3
NO_ACCESS = 4
REJECTED = 5
INTERRUPTED = 130
TIMEOUT_SECONDS = 2.0
LINE_SECONDS = 30.0  # between two lines about one step, where no terminal shows a bar

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]

results = Console(highlight=False)
messages = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)


class Commands(TyperGroup):
    """A group of commands that turns the SDK's errors into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except errors.APIConnectionError:
            fail_unreachable()
        except errors.BadRequestError as error:
            # The server's own list of refused lines is bounded.
            text, *_ = str(error).split("\n", 1) if error.line_errors else [str(error)]
            fail("\n".join([text, *listing(error.line_errors)]), _exit_code(error))
        except errors.TempoError as error:
            fail(str(error), _exit_code(error))


def connect(ctx: typer.Context) -> Tempo:
    """Return a client that is closed when the command ends.

    A server writes the key when it first starts. So if there is no key and no server either, the
    missing server is the thing to report.
    """
    make_client: Callable[[], Tempo] = ctx.obj or Tempo  # tests bring a client of their own
    try:
        return ctx.with_resource(make_client())
    except errors.ConfigurationError:
        if not _answers(find_base_url()):
            fail_unreachable()
        raise


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=trusts_environment(url))
    except httpx.TransportError:
        return False
    return True


def fail_unreachable() -> NoReturn:
    """End the command because no server answers."""
    remedy = "start a server with `tempo serve MODEL`, or set TEMPO_BASE_URL"
    fail(f"{find_base_url()} does not answer; {remedy}", UNREACHABLE)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command with a message and an exit code."""
    messages.print(f"tempo: {message}")
    raise typer.Exit(code)


def show(
    value: Any, rows: Iterable[Sequence[object]], *, as_json: bool, columns: Sequence[str] = ()
) -> None:
    """Print a value as JSON; or its rows, as a table on a terminal and tab-separated elsewhere."""
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


def field_rows(value: Resource, *names: str) -> list[tuple[str, object]]:
    """Return the named fields of a resource as rows."""
    return [(name.replace("_", " "), getattr(value, name)) for name in names]


def show_job(job: Job, *, as_json: bool) -> None:
    """Show a job's status, and its progress, its result or its error."""
    end = (job.error and job.error.message) or job.result.get("summary", "")
    last = ("result", end) if job.is_finished else ("progress", progress.line(job))
    show(job, [("job", job.id), ("status", job.status), last], as_json=as_json)


def finish(tempo: Tempo, job: Job, *, wait: bool, as_json: bool) -> None:
    """Show a job; with `wait` follow it first, and end the command with the job's exit code."""
    if not wait:
        return show_job(job, as_json=as_json)
    job = follow(tempo, job)
    show_job(job, as_json=as_json)
    if job.status != "succeeded":
        raise typer.Exit(FAILED)
    if job.result.get("decision") == "rejected":
        raise typer.Exit(REJECTED)


def follow(tempo: Tempo, job: Job) -> Job:
    """Print a job's events and its progress until it ends; Ctrl-C leaves the job running."""
    if not tempo.status().worker.alive:
        messages.print("no worker runs yet, the job waits for one; `tempo doctor` says more")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=messages, disable=not messages.is_terminal) as bar:
            return _follow(tempo, job, bar)
    except KeyboardInterrupt:
        fail(f"the job goes on; follow it again with `tempo watch {job.id}`", INTERRUPTED)


def _follow(tempo: Tempo, job: Job, bar: Progress) -> Job:
    task = bar.add_task(job.mode, total=None)
    last_event = None
    last_stage = ""
    last_print = 0.0
    while True:
        job = tempo.jobs.retrieve(job.id)
        for event in tempo.jobs.events(job.id, after=last_event):
            messages.print(f"{local_time(event.created_at)} {event.message}")
            last_event = event.id
        if job.is_finished:
            return job
        line = f"{job.mode}: {progress.line(job)}"
        bar.update(task, description=line, completed=progress.share(job), total=1)
        stage = progress.stage(job)
        is_due = stage != last_stage or time.monotonic() - last_print >= LINE_SECONDS
        if not messages.is_terminal and is_due:
            messages.print(line)
            last_print = time.monotonic()
        last_stage = stage
        time.sleep(POLL_SECONDS)


def sampling(temperature: float, top_p: float, top_k: int, max_tokens: int | None = None) -> str:
    """Return how tokens are drawn, in one line."""
    text = f"temperature {temperature:g}, top_p {top_p:g}, top_k {top_k or 'all'}"
    return text if max_tokens is None else f"{text}, max_tokens {max_tokens}"


def local_time(moment: int | None) -> str:
    """Return a time of the server in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else "-"


def _exit_code(error: errors.TempoError) -> int:
    if getattr(error, "code", None) == "gate_failed":
        return REJECTED
    if isinstance(error, errors.AuthenticationError | errors.PermissionDeniedError):
        return NO_ACCESS
    return NO_ACCESS if isinstance(error, errors.ConfigurationError) else FAILED


def _plain(value: Any) -> Any:
    if isinstance(value, Resource):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return fields | fields.pop("extra")
    return [_plain(item) for item in value] if isinstance(value, list) else value
