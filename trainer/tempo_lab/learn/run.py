"""One run: serve a real model, let users ask, upload labels, learn in rounds, and measure.

It uses only the public interfaces of the product. The answers to the users' questions are hidden
from the product, and only measure. Each stage that has ended is in `stages.json` of the run's
folder, so the same run goes on where it stopped.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import openai
from rich.console import Console

from tempo_client import Tempo
from tempo_client.types import Job
from tempo_lab.learn.questions import Question, QuestionSet
from tempo_lab.rows import last_commit
from tempo_lab.serving.jobs import follow
from tempo_lab.serving.processes import Process, free_port
from tempo_lab.serving.scores import USERS, measure, responses
from tempo_storage.adapters import BASE_NAME
from tempo_storage.decoding import GREEDY
from tempo_storage.errors import TempoError

console = Console(highlight=False, markup=False)
ROUNDS = 2
BASE_SCORES = "scores of the base"
# Of eight responses at least one in twenty groups must be right and another one wrong.
MIN_RIGHT = 0.007
MAX_RIGHT = 0.993
CAPTURE_SECONDS = 60.0
EXAMPLES = 3
SERVER_FLAGS = ("--max-model-len", "512", "--max-num-seqs", "128", "--host", "127.0.0.1")
CORES = sorted(os.sched_getaffinity(0))
MEASURED = (
    *(f"tempo_lab/learn/{name}.py" for name in ("questions", "run", "smollm2")),
    "tempo_lab/serving/scores.py",
    *(f"tempo_trainer/{name}" for name in ("algorithm", "learning", "sampling", "settings.py")),
    *(f"tempo_trainer/jobs/{name}.py" for name in ("build", "rounds", "running", "warm_up")),
    *(f"tempo_trainer/versions/{name}.py" for name in ("answers", "comparison", "domain", "gate")),
)
"""The files that decide what a run learns, which version serves, and how it is measured."""
ENVIRONMENT = {
    "TEMPO_ROUND_QUESTIONS": "0",  # no round starts by itself
    "TEMPO_GROUP_SIZE": "8",
    "TEMPO_LABELED_PER_STEP": "12",
    "TEMPO_UNLABELED_PER_STEP": "16",
    "TEMPO_REPLAY_BATCHES": "1",
    "TEMPO_WARM_UP_STEPS": "16",
    "TEMPO_WARM_UP_QUESTIONS": "16",
    "TEMPO_KL_COEFFICIENT": "0.1",
    "TEMPO_POLICY_LEARNING_RATE": "5e-4",
    "TEMPO_CRITIC_LEARNING_RATE": "1e-3",
    "TEMPO_TOKENS_PER_MICROBATCH": "4096",
    # vLLM idles while the trainer computes, and the trainer while vLLM samples. So both take all
    # cores.
    "TEMPO_THREADS": str(len(CORES)),
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, CORES)),
}


class HopelessError(TempoError, RuntimeError):
    """The base leaves nothing to learn from; the message names what to change."""


@dataclass(frozen=True)
class Plan:
    """All that decides a run."""

    questions: QuestionSet
    seed: int
    iterations: int
    """Of each round."""
    settings: dict[str, str]
    """Differences from ENVIRONMENT."""
    model: Path

    @property
    def row(self) -> dict[str, Any]:
        """The plan as a row has it."""
        return {
            "set": self.questions.name,
            "seed": self.seed,
            "iterations": self.iterations,
            "settings": self.settings,
            "model": self.model.name,
        }

    @property
    def folder(self) -> str:
        """The name of the folder of its data; another plan has another one."""
        digest = hashlib.sha256(json.dumps(self.row, sort_keys=True).encode()).hexdigest()
        return f"{self.questions.name}-{self.seed}-{digest[:8]}"


def hopeless(plain: Sequence[float]) -> str:
    """Say why the base's answers at temperature 1 leave nothing to learn from; "" if they do not.

    `plain` has the share of right responses to each question.
    """
    share = sum(plain) / len(plain)
    if share < MIN_RIGHT:
        return (
            f"the base answers {share:.1%} of the questions right at temperature 1, too few to "
            "learn from; choose easier questions, or a higher limit of tokens"
        )
    if share > MAX_RIGHT:
        return f"the base answers {share:.1%} of the questions right; choose harder ones"
    return ""


class Stages:
    """Results of the stages that have ended, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def result(self, stage: str, make: Callable[[], Any]) -> Any:
        """Return the result of a stage; make it if the stage has not ended in an earlier run."""
        if stage not in self._results:
            console.print(f"{time.strftime('%H:%M:%S')} {stage}")
            start = time.monotonic()
            result = make()
            minutes = round((time.monotonic() - start) / 60, 2)
            self._results[stage] = {"result": result, "minutes": minutes}
            aside = self._path.with_suffix(".new")
            aside.write_text(json.dumps(self._results))
            aside.rename(self._path)
        return self._results[stage]["result"]

    @property
    def minutes(self) -> dict[str, float]:
        """Minutes of each stage."""
        return {name: stage["minutes"] for name, stage in self._results.items()}


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Make a run, or what is left of it; return its row."""
    stages = Stages(folder / "stages.json")
    with serve(plan, folder, "data") as server:
        result = _Run(plan, server, stages).make()
    return plan.row | result | {"minutes": stages.minutes}


@dataclass(frozen=True)
class Server:
    """A running `tempo serve`, and its clients."""

    settings: dict[str, str]
    """Its TEMPO_ variables, TEMPO_BASE_URL among them."""
    tempo: Tempo
    client: openai.OpenAI
    check: Callable[[], None]
    """Raises ProcessError if it has ended."""


@contextmanager
def serve(plan: Plan, folder: Path, data: str) -> Iterator[Server]:
    """Serve a plan's model, with the data directory `data` of a folder."""
    data_dir = folder / data
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        **ENVIRONMENT,
        "TEMPO_SEED": str(plan.seed),
        "TEMPO_DATA_DIR": str(data_dir),
        "TEMPO_MAX_RESPONSE_TOKENS": str(plan.questions.max_tokens),
        **plan.settings,
    }
    command = ["serve", str(plan.model), "--port", str(port), *SERVER_FLAGS]
    log = folder / "serve.log"
    console.print(f"tempo serve {plan.model}; log in {log}")
    with Process("tempo_client.cli", command, log=log, env=settings) as serving:
        serving.wait_until_healthy(f"{url}/tempo/healthz")
        key = (data_dir / "admin.key").read_text().strip()
        with Tempo(base_url=url, api_key=key) as tempo, tempo.openai(max_retries=0) as client:
            yield Server(settings | {"TEMPO_BASE_URL": url}, tempo, client, serving.check)


def scores(plan: Plan, client: openai.OpenAI, model: str) -> dict[str, dict[str, list[float]]]:
    """Return the figures of each asked and each unseen question by measurement."""
    split = plan.questions.split(plan.seed)
    limit = plan.questions.max_tokens
    return {
        name: {
            measured: [round(float(value), 4) for value in values]
            for measured, values in measure(client, model, questions, max_tokens=limit).items()
        }
        for name, questions in (("asked", split.asked), ("unseen", split.unseen))
    }


class _Run:
    """The stages of a run on a server."""

    def __init__(self, plan: Plan, server: Server, stages: Stages) -> None:
        self._plan = plan
        self._tempo = server.tempo
        self._client = server.client
        self._stages = stages
        self._check = server.check
        self._split = plan.questions.split(plan.seed)
        self._shown = ""

    def make(self) -> dict[str, Any]:
        """Make all stages; return the row."""
        stage = self._stages.result
        commit = stage("commit", lambda: last_commit(MEASURED))
        base = stage(BASE_SCORES, lambda: scores(self._plan, self._client, BASE_NAME))
        if reason := hopeless(base["asked"]["plain"]):
            raise HopelessError(reason)
        asking = stage("users ask", self._ask)
        file = stage("labels", self._upload)
        rounds = []
        for number in range(1, ROUNDS + 1):
            job_id = stage(f"start of round {number}", lambda: self._start(file))
            rounds.append(stage(f"round {number}", partial(self._round, job_id)))
        served = stage(
            "scores of the served version", lambda: scores(self._plan, self._client, "tempo")
        )
        return {
            "commit": commit,
            "rounds": rounds,
            "median_tokens": asking["median_tokens"],
            "serving": self._tempo.status().serving_adapter,
            "base": base,
            "served": served,
            "examples": stage("examples", self._examples),
        }

    def _ask(self) -> dict[str, float]:
        """Let users ask each question once; return the median length of the answers.

        Raises RuntimeError unless all questions are captured.
        """

        def ask(question: Question) -> int:
            reply = self._client.chat.completions.create(
                model="tempo",
                messages=[{"role": "user", "content": question.question}],
                max_tokens=self._plan.questions.max_tokens,
                temperature=USERS.temperature,
            )
            return reply.usage.completion_tokens if reply.usage else 0

        with ThreadPoolExecutor(8) as users:
            tokens = list(users.map(ask, self._split.asked))
        deadline = time.monotonic() + CAPTURE_SECONDS
        while (captured := self._tempo.status().questions.distinct) < len(self._split.asked):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{captured} of {len(self._split.asked)} questions are captured")
            time.sleep(0.5)
        return {"median_tokens": median(tokens)}

    def _upload(self) -> str:
        file = self._tempo.files.create(q.labeled_row for q in self._split.labeled)
        return file.id

    def _start(self, file: str) -> str:
        return self._tempo.jobs.create(training_file=file, max_steps=self._plan.iterations).id

    def _round(self, job_id: str) -> dict[str, Any]:
        """Follow a round until it ends; return its result and curves."""
        job = follow(self._tempo, self._tempo.jobs.retrieve(job_id), self._look)
        console.print(job.result.get("summary", job.status))
        curves = [point.metrics for point in self._tempo.jobs.checkpoints(job.id)]
        return {"result": job.result, "curves": curves}

    def _look(self, job: Job) -> None:
        """Show each new step of a job once."""
        self._check()
        step = f"{job.progress.get('phase')} {job.progress.get('iteration')}"
        if step != self._shown:
            self._shown = step
            console.print(f"{time.strftime('%H:%M:%S')} {step} of {job.progress.get('of')}")

    def _examples(self) -> list[dict[str, str]]:
        """Return unseen questions with the greedy answers of base and served version."""
        questions = self._split.unseen[:EXAMPLES]
        answers = {
            model: responses(
                self._client,
                model,
                questions,
                decoding=GREEDY,
                n=1,
                max_tokens=self._plan.questions.max_tokens,
            )
            for model in (BASE_NAME, "tempo")
        }
        rows = zip(questions, answers[BASE_NAME], answers["tempo"], strict=True)
        return [
            {"question": q.question, "answer": str(q.answer), "base": base[0], "served": served[0]}
            for q, base, served in rows
        ]
