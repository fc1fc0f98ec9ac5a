"""The commands that talk to a server: each calls the SDK and prints the answer."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from tempo_client.cli import gate_report, progress
from tempo_client.cli.keys import audit, keys
from tempo_client.cli.labeled import missing_labels, print_file, shown_gain
from tempo_client.cli.labels import labels
from tempo_client.cli.output import (
    Commands,
    Json,
    connect,
    fail,
    field_rows,
    finish,
    local_time,
    messages,
    sampling,
    show,
    show_job,
)
from tempo_client.cli.plugins import add_plugins
from tempo_client.cli.questions import admit, erase, learned, questions
from tempo_client.errors import ConflictError
from tempo_client.types import Adapter, Decoding, Status

app = typer.Typer(
    name="tempo",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
adapters = typer.Typer(help="List, show, promote and roll back adapter versions.")
jobs = typer.Typer(help="List, show and cancel training jobs, and read their events.")
add_plugins(app, entry_points(group="tempo.commands"))
GROUPS = {"adapters": adapters, "jobs": jobs, "keys": keys, "labels": labels}
for name, group in GROUPS.items():
    app.add_typer(group, name=name, no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=0, help="Number of the newest ones to list; 0: all.")]
Wait = Annotated[
    bool, typer.Option(help="Follow the job to its end; with --no-wait, only queue it.")
]
Reason = Annotated[str, typer.Option(help="A reason, recorded with the change.")]
AdapterId = Annotated[str, typer.Argument(metavar="ADAPTER", help="Such as tempo-v3.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="As `tempo jobs list` shows it.")]
LabeledFile = Annotated[Path, typer.Argument(exists=True, help="JSONL, JSON, CSV or Parquet.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check the file.")]
Force = Annotated[bool, typer.Option("--force", help="Promote it even if the gate rejected it.")]
NewTests = Annotated[
    bool, typer.Option("--new-tests", help="Reset the number of the gate's tests.")
]
Promote = Annotated[bool, typer.Option(help="Serve the new version if the gate accepts it.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Iterations; by default TEMPO_ITERATIONS_PER_ROUND, 10."),
]


MAX_QUESTIONS_OF_SAMPLING = 1000
"""The server takes the users' sampling from so many distinct questions."""


def print_version(is_set: bool) -> None:
    """Print the version and end the command, if `--version` is set."""
    if is_set:
        typer.echo(f"vllm-tempo {version_of('vllm-tempo')}")
        raise typer.Exit


@app.callback()
def describe(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """A vLLM server that goes on learning from its users' questions.

    Begin with `tempo serve MODEL`, then `tempo recalibrate FILE` with a file of labeled questions.
    Users ask the model `tempo`. A round of training starts by itself after 64 new questions, or
    with `tempo round`.

    The server is http://127.0.0.1:8000, unless TEMPO_BASE_URL names another. The key is
    TEMPO_API_KEY, or in TEMPO_API_KEY_FILE or TEMPO_DATA_DIR/admin.key.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 no server, 4 no access, and 5 for a version
    that the gate rejected.
    """


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the serving version, the training and the questions."""
    answer = connect(ctx).status()
    show(answer, _status_rows(answer), as_json=as_json)


@app.command()
def recalibrate(
    ctx: typer.Context,
    file: LabeledFile,
    dry_run: DryRun = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Upload labeled questions and fit the critic to them.

    The critic estimates whether a response is right, and training relies on it. FILE has one
    question on each line:

    {"question": "…", "answer": "42"}

    FILE may also be a JSON array, a CSV or a Parquet file, or a directory of Hugging Face's
    `datasets`, which needs the extra `files`. The field names of most data sets are understood.

    The verifier compares a response with the answer. It is chosen by the answer and the options,
    unless the line names a `verifier`; the choices are printed with examples. A line may have a
    `system` message and `chat_template_kwargs`.

    Give at least 8 questions, better 64. Half of the first 64 and one in five of the others are
    held out, into however many files they are cut. Held-out questions train nothing and decide
    promotions. With fewer than 32 of them nothing is promoted by itself. With --dry-run the server
    checks the file and stores nothing.
    """
    tempo = connect(ctx)
    uploaded = tempo.files.create(file, dry_run=dry_run)
    print_file(uploaded)
    if dry_run:
        rows = field_rows(uploaded, "examples", "held_out", "duplicates")
        rows += [(f"verifier {v['verifier']}", v["count"]) for v in uploaded.verifiers]
        if uploaded.labeled:
            rows.append(("held out in all", uploaded.labeled.held_out))
            rows.append(("missing labels", uploaded.labeled.missing))
        return show(uploaded, rows, as_json=as_json)
    try:
        job = tempo.jobs.create("recalibrate", training_file=uploaded.id)
    except ConflictError as error:
        fail(f"the labels of {file} are stored, but no job was made: {error}")
    messages.print("next, a round starts after enough user questions; follow it with `tempo watch`")
    finish(tempo, job, wait=wait, as_json=as_json)


@app.command("round")
def round_(
    ctx: typer.Context,
    steps: Steps = None,
    promote: Promote = True,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train on users' questions, then let the gate decide.

    The gate compares the new version with the serving one and with the base on held-out questions.
    If it rejects the new version, the exit code is 5. If it promotes the version, leaves it to you
    as a candidate, or makes no test, the exit code is 0.
    """
    tempo = connect(ctx)
    job = tempo.jobs.create("round", max_steps=steps, auto_promote=promote)
    finish(tempo, job, wait=wait, as_json=as_json)


@app.command()
def watch(
    ctx: typer.Context,
    job_id: Annotated[str | None, typer.Argument(metavar="JOB", help="A job's id.")] = None,
    as_json: Json = False,
) -> None:
    """Follow a job to its end, by default the current one."""
    tempo = connect(ctx)
    if job_id:
        return finish(tempo, tempo.jobs.retrieve(job_id), wait=True, as_json=as_json)
    unfinished = [job for job in tempo.jobs.list() if not job.is_finished]
    if not unfinished:
        return show([], [("no job is under way",)], as_json=as_json)
    job = next((job for job in unfinished if job.status == "running"), unfinished[-1])
    finish(tempo, job, wait=True, as_json=as_json)


for command in (questions, learned, erase, admit, audit):
    app.command()(command)


@app.command()
def pause(ctx: typer.Context, reason: Reason = "", as_json: Json = False) -> None:
    """Pause training until `tempo resume`, even across restarts.

    The current step ends first.
    """
    training = connect(ctx).training.pause(reason)
    show(training, field_rows(training, "paused", "reason"), as_json=as_json)


@app.command()
def resume(ctx: typer.Context, new_tests: NewTests = False, as_json: Json = False) -> None:
    """Resume paused training.

    The gate makes at most 50 tests on one set of held-out questions. --new-tests resets the number
    of the gate's tests, also where training is not paused.
    """
    training = connect(ctx).training.resume(new_tests)
    show(training, field_rows(training, "paused"), as_json=as_json)
    if training.new_tests:
        messages.print("the number of the gate's tests starts again at 0")


@app.command()
def version(as_json: Json = False) -> None:
    """Show the version of vllm-tempo that is installed here."""
    versions = {"vllm-tempo": version_of("vllm-tempo")}
    show(versions, versions.items(), as_json=as_json)


# Adapters ----------------------------------------------------------------------------------------


@adapters.command("list")
def list_adapters(ctx: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List versions, newest first; tempo-v0 is the base model."""
    listed = connect(ctx).adapters.list()
    newest = listed[: limit or None]
    rows = [
        (a.id, a.status, local_time(a.created_at), gate_report.decision(a.report)) for a in newest
    ]
    show(newest, rows, as_json=as_json, columns=("adapter", "status", "made", "gate"))
    if older := len(listed) - len(newest):
        messages.print(f"{older} older versions are not listed; --limit 0 lists all")


@adapters.command("show")
def show_adapter(ctx: typer.Context, adapter_id: AdapterId, as_json: Json = False) -> None:
    """Show a version, its origin and the gate's decision."""
    _show_adapter(connect(ctx).adapters.retrieve(adapter_id), as_json=as_json)


@adapters.command()
def promote(
    ctx: typer.Context,
    adapter_id: AdapterId,
    force: Force = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let a version serve users."""
    _show_serving(
        connect(ctx).adapters.promote(adapter_id, force=force, reason=reason), as_json=as_json
    )


@adapters.command()
def rollback(
    ctx: typer.Context,
    adapter_id: Annotated[str | None, typer.Argument(metavar="ADAPTER", help="A version.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Return to a version, by default to the one that served before."""
    _show_serving(connect(ctx).adapters.rollback(adapter_id, reason=reason), as_json=as_json)


# Jobs --------------------------------------------------------------------------------------------


@jobs.command("list")
def list_jobs(ctx: typer.Context, as_json: Json = False) -> None:
    """List all jobs, newest first."""
    listed = connect(ctx).jobs.list()
    rows = [(job.id, job.mode, progress.line(job), local_time(job.created_at)) for job in listed]
    if not listed:
        messages.print("no jobs yet; `tempo recalibrate FILE` makes one")
    show(listed, rows, as_json=as_json, columns=("job", "mode", "status", "made"))


@jobs.command("show")
def show_one_job(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Show a job."""
    show_job(connect(ctx).jobs.retrieve(job_id), as_json=as_json)


@jobs.command()
def cancel(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job; its committed iterations stay."""
    show_job(connect(ctx).jobs.cancel(job_id), as_json=as_json)


@jobs.command()
def events(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """List the events of a job, oldest first."""
    listed = connect(ctx).jobs.events(job_id)
    rows = [(local_time(event.created_at), event.level, event.message) for event in listed]
    show(listed, rows, as_json=as_json, columns=("time", "level", "event"))


# Rows --------------------------------------------------------------------------------------------


def _status_rows(answer: Status) -> list[Sequence[object]]:
    iteration = "" if answer.iteration is None else f", iteration {answer.iteration}"
    questions = answer.questions
    labeled = answer.labeled
    rows: list[Sequence[object]] = [
        ("model", answer.model),
        ("serving", answer.serving_adapter),
        ("previous", answer.previous_adapter or "-"),
        ("training", answer.phase + iteration),
        ("worker", answer.worker.owner or "none holds the lease"),
        ("questions", f"{questions.captured} captured, {questions.distinct} distinct"),
        ("labeled", f"{labeled.train} to train on, {labeled.held_out} held out"),
        ("gate", shown_gain(labeled)),
        *[("gate", text) for text in missing_labels(labeled)],
    ]
    if answer.users_decoding is not None:
        rows.append(("users sample", _users_sampling(questions.distinct, answer.users_decoding)))
    rows += [("warning", text) for text in answer.warnings]
    rows += [("process", f"{p.id}: {p.error}") for p in answer.processes if p.error]
    if error := answer.last_error:
        rows.append(("last error", f"{local_time(error.created_at)} {error.message}"))
    return rows


def _users_sampling(questions: int, users: Decoding) -> str:
    """Return the sampling by which the gate judges, and the number of questions behind it."""
    text = sampling(users.temperature, users.top_p, users.top_k, users.max_tokens)
    if not questions:
        return f"no question yet: the model's default, {text}"
    count = min(questions, MAX_QUESTIONS_OF_SAMPLING)
    return f"at {text} (median of {count} {'question' if count == 1 else 'questions'})"


def _show_adapter(adapter: Adapter, *, as_json: bool) -> None:
    rows = field_rows(adapter, "id", "status", "parent", "created_by_job", "sha256")
    rows += [*gate_report.rows(adapter.report), ("probe", _probe_verdict(adapter))]
    for name, value in adapter.lineage.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {key}".rstrip(), part) for key, part in parts]
    if count := len(adapter.question_ids):
        rows.append(("learned from", f"{count} questions; --json has their ids"))
    show(adapter, rows, as_json=as_json)


def _show_serving(adapter: Adapter, *, as_json: bool) -> None:
    """Show in short the version that serves after a promotion or a rollback."""
    rows = field_rows(adapter, "id", "status", "parent")
    show(adapter, [*rows, ("gate", gate_report.decision(adapter.report))], as_json=as_json)
    for process in adapter.unacknowledged:
        messages.print(f"tempo: process {process} does not answer with it yet")


def _probe_verdict(adapter: Adapter) -> str:
    probe = adapter.report.get("probe")
    return f"{probe['verdict']}: {probe['reason']}" if probe else "-"
