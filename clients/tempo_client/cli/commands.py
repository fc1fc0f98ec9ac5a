"""The commands that ask a server: each is a call of the SDK and what is shown of its answer."""

from importlib.metadata import entry_points
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from tempo_client.cli.keys import keys
from tempo_client.cli.output import (
    Commands,
    Json,
    clock,
    connect,
    finish,
    remark,
    rows_of,
    show,
    story,
)
from tempo_client.cli.plugins import add_plugins
from tempo_client.cli.questions import erase, learned, questions
from tempo_client.types import Adapter, File, Status

app = typer.Typer(
    name="tempo",
    cls=Commands,
    help="A vLLM server that goes on learning from its users' questions.\n\n"
    "Begin with `tempo serve MODEL`; beside it `tempo recalibrate FILE`. Users ask model tempo; a "
    "round starts by itself once 64 new questions have come, or with `tempo round`.\n\n"
    "TEMPO_BASE_URL names the server if it is not http://127.0.0.1:8000. Its key is TEMPO_API_KEY, "
    "or in TEMPO_API_KEY_FILE or TEMPO_DATA_DIR.\n\n"
    "Exit codes: 0 done, 1 failed, 2 usage, 3 no server, 4 no access, 5 refused by the gate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
add_plugins(app, entry_points(group="tempo.commands"))
adapters = typer.Typer(help="List, show, promote and roll back adapter versions.")
jobs = typer.Typer(help="List, show and cancel training jobs, and read their events.")

Wait = Annotated[bool, typer.Option(help="Follow the job to its end.")]
Reason = Annotated[str, typer.Option(help="Kept with the change.")]
AdapterId = Annotated[str, typer.Argument(metavar="ADAPTER", help="tempo-v<N>")]
JobId = Annotated[str, typer.Argument(metavar="JOB")]


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what serves, what trains and what was asked."""
    found = connect(ctx).status()
    show(found, _status_rows(found), as_json=as_json)


@app.command()
def recalibrate(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Questions, JSONL.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file only.")] = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Upload labeled questions and calibrate the critic.

    One question a line: {"question": "…", "answer": "42", "verifier": "math"}. `math` is the
    default; numeric, exact and choice are there too. At least 8 lines, better 64: a fifth is held
    out and decides promotions. The server checks the file, also for --dry-run.
    """
    tempo = connect(ctx)
    sent = tempo.files.create(file, dry_run=dry_run)
    _tell_file(sent)
    if dry_run:
        return show(sent, rows_of(sent, "examples", "held_out", "duplicates"), as_json=as_json)
    job = tempo.jobs.create("recalibrate", training_file=sent.id)
    story.print("then a round starts by itself once users have asked enough: `tempo watch`")
    finish(tempo, job, wait=wait, as_json=as_json)


@app.command("round")
def round_(
    ctx: typer.Context,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Iterations; by default TEMPO_ITERATIONS_PER_ROUND, 10."),
    ] = None,
    promote: Annotated[bool, typer.Option(help="Serve what passes the gate.")] = True,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train on what users asked; the gate has the last word."""
    tempo = connect(ctx)
    job = tempo.jobs.create("round", max_steps=steps, auto_promote=promote)
    finish(tempo, job, wait=wait, as_json=as_json)


@app.command()
def watch(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="[JOB]", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Follow a job to its end, by default the one under way."""
    tempo = connect(ctx)
    known = [tempo.jobs.retrieve(job_id)] if job_id else tempo.jobs.list()
    under_way = [job for job in known if job_id or not job.is_finished]
    if not under_way:
        return show([], [("no job is under way",)], as_json=as_json)
    job = next((job for job in under_way if job.status == "running"), under_way[-1])
    finish(tempo, job, wait=True, as_json=as_json)


for command in (questions, learned, erase):
    app.command()(command)


@app.command()
def pause(ctx: typer.Context, reason: Reason = "", as_json: Json = False) -> None:
    """Stop training after the step under way; survives restarts."""
    changed = connect(ctx).training.pause(reason)
    show(changed, rows_of(changed, "paused", "reason"), as_json=as_json)


@app.command()
def resume(ctx: typer.Context, as_json: Json = False) -> None:
    """Let training go on."""
    changed = connect(ctx).training.resume()
    show(changed, rows_of(changed, "paused"), as_json=as_json)


@app.command()
def version(as_json: Json = False) -> None:
    """Show the version of what is installed here."""
    found = {"vllm-tempo": version_of("vllm-tempo")}
    show(found, found.items(), as_json=as_json)


# Adapters ----------------------------------------------------------------------------------------


@adapters.command("list")
def list_adapters(ctx: typer.Context, as_json: Json = False) -> None:
    """List all versions, newest first; tempo-v0 is the base."""
    found = connect(ctx).adapters.list()
    rows = [(a.id, a.status, clock(a.created_at), _gate_reason(a)) for a in found]
    show(found, rows, as_json=as_json, columns=("adapter", "status", "made", "gate"))


@adapters.command("show")
def show_adapter(ctx: typer.Context, adapter_id: AdapterId, as_json: Json = False) -> None:
    """Show one version and why the gate decided as it did."""
    _show_adapter(connect(ctx).adapters.retrieve(adapter_id), as_json=as_json)


@adapters.command()
def promote(
    ctx: typer.Context,
    adapter_id: AdapterId,
    force: Annotated[bool, typer.Option("--force", help="Although the gate refused.")] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Make a version serve."""
    changed = connect(ctx).adapters.promote(adapter_id, force=force, reason=reason)
    _show_adapter(changed, as_json=as_json)


@adapters.command()
def rollback(
    ctx: typer.Context,
    adapter_id: Annotated[str, typer.Argument(metavar="[ADAPTER]", show_default=False)] = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Return to a version, by default to the one that served before."""
    changed = connect(ctx).adapters.rollback(adapter_id or None, reason=reason)
    _show_adapter(changed, as_json=as_json)


# Jobs --------------------------------------------------------------------------------------------


@jobs.command("list")
def list_jobs(ctx: typer.Context, as_json: Json = False) -> None:
    """List all jobs, newest first."""
    found = connect(ctx).jobs.list()
    rows = [(job.id, job.mode, job.status, clock(job.created_at)) for job in found]
    if not found:
        story.print("no jobs yet; `tempo recalibrate FILE` makes one")
    show(found, rows, as_json=as_json, columns=("job", "mode", "status", "made"))


@jobs.command("show")
def show_job(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Show one job."""
    tempo = connect(ctx)
    finish(tempo, tempo.jobs.retrieve(job_id), wait=False, as_json=as_json)


@jobs.command()
def cancel(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job; what it has committed stays."""
    tempo = connect(ctx)
    finish(tempo, tempo.jobs.cancel(job_id), wait=False, as_json=as_json)


@jobs.command()
def events(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Tell a job's story."""
    found = connect(ctx).jobs.events(job_id)
    rows = [(clock(event.created_at), event.level, event.message) for event in found]
    show(found, rows, as_json=as_json, columns=("time", "level", "event"))


# Rows --------------------------------------------------------------------------------------------


def _status_rows(found: Status) -> list[tuple[str, object]]:
    iteration = "" if found.iteration is None else f", iteration {found.iteration}"
    asked, labeled = found.questions, found.labeled
    rows: list[tuple[str, object]] = [
        ("model", found.model),
        ("serving", found.serving_adapter),
        ("previous", found.previous_adapter or "-"),
        ("training", ("paused, " if found.paused else "") + found.phase + iteration),
        ("worker", found.worker.owner or "none holds the lease"),
        ("questions", f"{asked.captured} captured, {asked.distinct} distinct"),
        ("labeled", f"{labeled.train} to train on, {labeled.held_out} held out"),
    ]
    rows += [("warning", text) for text in found.warnings]
    rows += [("process", f"{p.id}: {p.error}") for p in found.processes if p.error]
    if error := found.last_error:
        rows.append(("last error", f"{clock(error.created_at)} {error.message}"))
    return rows


def _tell_file(found: File) -> None:
    story.print(f"{found.filename}: {found.examples} questions, {found.held_out} held out")
    for warning in found.warnings:
        story.print(remark(warning))


def _show_adapter(found: Adapter, *, as_json: bool) -> None:
    rows = rows_of(found, "id", "status", "parent", "created_by_job", "sha256")
    rows += [("gate", _gate_reason(found)), ("probe", _probe_finding(found))]
    for name, value in found.lineage.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {key}".rstrip(), part) for key, part in parts]
    rows += [("learned from", question_id) for question_id in found.question_ids]
    show(found, rows, as_json=as_json)
    for process in found.unacknowledged:
        story.print(f"tempo: process {process} does not answer with it yet")


def _gate_reason(found: Adapter) -> str:
    """Return why the gate decided, and by what difference on how many questions."""
    report = found.report
    if "against_base" not in report:
        return str(report.get("reason", "-"))
    difference = report["against_base"]
    base, avg, k = report["base_avg_at_k"], report["candidate_avg_at_k"], report["k"]
    return (
        f"{report['reason']}; avg@{k} {avg:.3f}, base {base:.3f} ({difference['mean']:+.3f}, at "
        f"least {difference['low']:+.3f}) on {report['questions']} held-out questions"
    )


def _probe_finding(found: Adapter) -> str:
    probe = found.report.get("probe")
    return f"{probe['verdict']}: {probe['reason']}" if probe else "-"


for name, group in (("adapters", adapters), ("jobs", jobs), ("keys", keys)):
    app.add_typer(group, name=name, no_args_is_help=True)
