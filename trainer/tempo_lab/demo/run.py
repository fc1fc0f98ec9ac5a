"""The whole loop on a small reasoner: serve, capture, recalibrate, refine, promote, measure.

    python -m tempo_lab.demo.run                  # `make demo`
    python -m tempo_lab.demo.run --flip-reward    # `make control`: must promote nothing

It uses only the public interfaces of the product. The answers to the users' questions are hidden
from the product, and only measure.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

from tempo_client import Tempo
from tempo_client.types import Job
from tempo_lab.demo.users import MAX_TOKENS, Users, idle_first_tokens, p99_ms
from tempo_lab.rows import last_commit, write
from tempo_lab.serving.jobs import follow
from tempo_lab.serving.processes import Process, free_port
from tempo_lab.serving.progress import Reporter
from tempo_lab.serving.scores import MEASURES, Scores, means, measure
from tempo_lab.tasks import countdown
from tempo_lab.tasks.base import CACHE, Recipe, base_directory, build_base
from tempo_storage.errors import TempoError

console = Console(highlight=False)
GATE_ITERATIONS = 16  # the gate takes as long as this many iterations
ITERATION_SECONDS = 1.2
SetScores = Mapping[str, Scores]
"""Scores by set of questions: adapted, unseen."""
ABOUT = (
    "A toy: a model of 0.4 M parameters solves puzzles. It never saw the numbers of the puzzles "
    "that users ask here. It closes each response with its own verdict, ok or no, and the critic "
    "need only learn to read this verdict."
)
BEST = "each at the best of these temperatures"
TEMPERATURES = ("greedy", "users", "plain")
MEASURED = ("tempo_lab/demo", "tempo_lab/serving", "tempo_lab/tasks", "tempo_trainer")
"""The files that decide a row, below `trainer/`."""
PHASES = {"e_step": "E-step", "m_step": "M-step", "gating": "gate"}
# A model this small is all overhead: one engine process, one thread, nothing compiled.
SERVER_FLAGS = (
    *("--dtype", "float32", "--max-model-len", "64", "--max-num-seqs", "256"),
    *("--distributed-executor-backend", "uni", "--gpu-memory-utilization", "0.3"),
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TEMPO_MAX_RESPONSE_TOKENS": "16",
    # At most 128 rollouts in flight: half of vLLM's places stay free, so no user waits for one.
    "TEMPO_PROMPTS_PER_REQUEST": "8",
    "TEMPO_REQUESTS_IN_FLIGHT": "2",
    "TEMPO_THREADS": "1",
    "TEMPO_LABELED_IN_POLICY": "0",  # so that the critic alone carries the gain
    "TEMPO_ROUND_QUESTIONS": "0",  # no round starts by itself
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the last line printed is its result as JSON.

    Return 1 if it failed, or if a run with the wrong sign of the reward promoted anything.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = _options(arguments)
    commit = last_commit(MEASURED)  # files may change while it runs
    start = time.monotonic()
    try:
        result = run(options)
    except (TempoError, openai.OpenAIError, RuntimeError) as error:
        console.print(f"[red]demo failed:[/] {error}", markup=True)
        return 1
    print(json.dumps(result))
    if options.kept:
        minutes = round((time.monotonic() - start) / 60, 1)
        keep(options, result | {"minutes": minutes, "commit": commit})
    return int(options.flip_reward and result["promotions"] > 0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serve, learn and measure; return the result."""
    _say(ABOUT)
    with Reporter(_plan(options), _say) as reporter:
        base = _base(options.cache, reporter)
        data_dir = options.data_dir or Path(tempfile.mkdtemp(prefix="tempo-demo-"))
        environment = _environment(options, data_dir)
        log = data_dir / "logs" / "serve.log"
        port = free_port()
        reporter.begin("start of vLLM")
        _say(f"vLLM, Valkey and the worker start; their log is {log}")
        command = ["serve", str(base), "--host", "127.0.0.1", "--port", str(port), *SERVER_FLAGS]
        with Process("tempo_client.cli", command, log=log, env=environment) as serving:
            url = f"http://127.0.0.1:{port}"
            serving.wait_until_healthy(f"{url}/tempo/healthz")
            key = (data_dir / "admin.key").read_text().strip()
            with Tempo(base_url=url, api_key=key) as tempo, tempo.openai(max_retries=0) as client:
                result = _loop(options, tempo, client, reporter=reporter, check=serving.check)
            reporter.begin("stop of vLLM")
    return result


def keep(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Add a result to the rows of the demonstration."""
    names = ("seed", "flip_reward", "rounds", "iterations")
    row = {name: getattr(options, name) for name in names}
    write(options.kept / "demo.jsonl", [{**row, **result}])


def _environment(options: argparse.Namespace, data_dir: Path) -> dict[str, str]:
    environment = ENVIRONMENT | {"TEMPO_DATA_DIR": str(data_dir), "TEMPO_SEED": str(options.seed)}
    if options.flip_reward:
        environment["TEMPO_REWARD_SIGN"] = "-1"
    return environment


def _loop(
    options: argparse.Namespace,
    tempo: Tempo,
    client: openai.OpenAI,
    *,
    reporter: Reporter,
    check: Callable[[], None],
) -> dict[str, Any]:
    split = countdown.split(options.seed)
    reporter.begin("accuracy of the base")
    before = _scores(client, "tempo-v0", split)
    reporter.begin("speed without training")
    idle = idle_first_tokens(client, split.unlabeled)
    users = Users(client, split.unlabeled)
    with users.asking(users=2, pause_seconds=0.5):
        reporter.begin("recalibration")
        file = tempo.files.create(countdown.labeled_row(puzzle) for puzzle in split.labeled)
        _say(f"uploaded {file.examples} labeled questions, {file.held_out} held out")
        first = tempo.jobs.create("recalibrate", training_file=file.id)
        jobs = [_watch(tempo, first, reporter, check)]
        reporter.begin("users' first questions")
        while users.requests < len(split.unlabeled):
            time.sleep(0.5)
            reporter.update("asked once", users.requests, len(split.unlabeled))
        for number in range(options.rounds):
            reporter.begin(_round(number, options))
            job = tempo.jobs.create(training_file=file.id, max_steps=options.iterations)
            jobs.append(_watch(tempo, job, reporter, check))
    reporter.begin("accuracy after training")
    after = _scores(client, "tempo", split)
    console.print(table(before, after))
    result = _result(tempo, jobs, users, before, after, idle)
    if options.flip_reward:
        result["control"] = control_verdict(result["promotions"])
        _say(f"control: {result['control']}")
    return result


def _base(cache: Path, reporter: Reporter) -> Path:
    reporter.begin("base model")

    def show(step: int, steps: int, loss: float) -> None:
        reporter.update(f"step {step} of {steps}, loss {loss:.2f}", step, steps)

    return build_base(cache, show)


def _plan(options: argparse.Namespace) -> dict[str, float]:
    """Return the steps in their order, each with the seconds that it takes on two cores."""
    is_cached = base_directory(options.cache, Recipe()).is_dir()
    round_seconds = ITERATION_SECONDS * (options.iterations + GATE_ITERATIONS)
    rounds = {_round(number, options): round_seconds for number in range(options.rounds)}
    return {
        "base model": 0.0 if is_cached else 240.0,
        "start of vLLM": 50.0,
        "accuracy of the base": 40.0,
        "speed without training": 10.0,
        "recalibration": 40.0,
        "users' first questions": 5.0,
        **rounds,
        "accuracy after training": 40.0,
        "stop of vLLM": 5.0,
    }


def _round(number: int, options: argparse.Namespace) -> str:
    return f"round {number + 1} of {options.rounds}"


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _watch(tempo: Tempo, job: Job, reporter: Reporter, check: Callable[[], None]) -> Job:
    """Report a job's progress until it ends; `check` raises when the server has ended."""

    def look(job: Job) -> None:
        check()
        _update(reporter, job)

    job = follow(tempo, job, look)
    _say(f"  {job.result.get('summary', job.status)}")
    return job


def _update(reporter: Reporter, job: Job) -> None:
    """Report the phase, the iteration and the critic's AUROC within a question of a job."""
    if not (total := job.progress.get("of")):
        reporter.update(job.status)
        return
    phase = job.progress.get("phase", job.status)
    iteration = job.progress.get("iteration", 0)
    text = f"{PHASES.get(phase, phase)}, iteration {iteration} of {total}"
    if auroc := (job.progress.get("metrics") or {}).get("e_step/within_auroc"):
        text += f", critic AUROC within a question {auroc:.2f}"
    reporter.update(text, iteration, total + GATE_ITERATIONS * (job.mode == "round"))


def _scores(client: openai.OpenAI, model: str, split: countdown.Split) -> SetScores:
    sets = {"adapted": split.unlabeled, "unseen": split.unseen}
    return {
        name: measure(client, model, questions, max_tokens=MAX_TOKENS)
        for name, questions in sets.items()
    }


def table(before: SetScores, after: SetScores) -> Table:
    """Return every measure of the base and of the served version; the change is in points."""
    rows = Table(title="accuracy on the users' questions (adapted) and on others (unseen)")
    for column in ("questions", "accuracy"):
        rows.add_column(column)
    for column in ("base", "served", "change"):
        rows.add_column(column, justify="right")
    for name in before:
        base = means(before[name])
        served = means(after[name])
        for measure_name, text in MEASURES.items():
            a = base[measure_name]
            b = served[measure_name]
            rows.add_row(name, text, f"{a:.3f}", f"{b:.3f}", f"{100 * (b - a):+.1f}")
        # A sharper policy looks better at temperature 1 alone, so each side gets its best one.
        a = max(base[one] for one in TEMPERATURES)
        b = max(served[one] for one in TEMPERATURES)
        rows.add_row(name, BEST, f"{a:.3f}", f"{b:.3f}", f"{100 * (b - a):+.1f}")
        rows.add_section()
    return rows


def control_verdict(promotions: int) -> str:
    """Say whether a run whose reward has the wrong sign promoted anything."""
    if promotions:
        return f"FAILED: {promotions} promoted, although the reward has the wrong sign"
    return "nothing was promoted, as it must be"


def _result(
    tempo: Tempo,
    jobs: Sequence[Job],
    users: Users,
    before: SetScores,
    after: SetScores,
    idle: Sequence[float | None],
) -> dict[str, Any]:
    status = tempo.status()
    rounds = [job.result for job in jobs if job.mode == "round"]
    if users.errors:
        console.print(f"[red]{len(users.errors)} requests failed:[/] {users.errors[0]}")
    return {
        "scores": {
            name: {"base": means(before[name]), "served": means(after[name])} for name in before
        },
        "adapter": status.serving_adapter,
        "promotions": sum(result.get("decision") == "promoted" for result in rounds),
        "recalibrations": sum(int(job.result.get("e_steps", 0)) for job in jobs),
        "m_steps": sum(int(result.get("m_steps", 0)) for result in rounds),
        "labeled_rows_in_policy": sum(int(r.get("labeled_rows_in_policy", 0)) for r in rounds),
        "critic_auroc": rounds[-1].get("critic_auroc") if rounds else None,
        "critic_within_auroc": rounds[-1].get("critic_within_auroc") if rounds else None,
        "requests": users.requests,
        "captured": status.questions.captured,
        "failed": len(users.errors),
        "ttft_p99_idle_ms": p99_ms(idle),
        "ttft_p99_training_ms": p99_ms(users.answers),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tempo demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of questions")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each ended by the gate")
    parser.add_argument("--iterations", type=int, default=30, help="iterations of a round")
    parser.add_argument("--flip-reward", action="store_true", help="control: must promote nothing")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of the base model")
    parser.add_argument("--data-dir", type=Path, help="default: a new temporary directory")
    parser.add_argument("--kept", type=Path, help="folder to which the result is added as a row")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
