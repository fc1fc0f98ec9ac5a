"""Train the model of `make learn` by other methods, with the same questions, labels and budget.

    python -m tempo_lab.learn.rivals --set last --seed 0     # `make rivals`: resumes

A run of `make learn` has two rounds of iterations. A rival makes as many, with as many questions in
each, and no gate: its last policy is measured. Each finished rival is a line of
`<out>/rivals.jsonl`. Supervised fine-tuning has three step sizes, of which the best one counts.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import openai

from tempo_lab.learn import smollm2
from tempo_lab.learn.questions import SETS, VERIFIER, Question
from tempo_lab.learn.results import OUT, append, shown
from tempo_lab.learn.run import BASE_SCORES, ROUNDS, Plan, Server, Stages, console, scores, serve
from tempo_lab.rows import Row, last_commit, read
from tempo_lab.serving.scores import MEASURES
from tempo_lab.study.lab import Lab, Spec
from tempo_lab.study.methods import METHODS
from tempo_lab.study.questions import Data
from tempo_lab.study.sampling import LocalSampler
from tempo_lab.study.served import ServedSampler
from tempo_lab.tasks.base import CACHE
from tempo_storage.adapters import BASE_NAME
from tempo_storage.errors import TempoError
from tempo_trainer.sampling.verifier_pool import VerifierPool

MEASURED = (
    *(f"tempo_lab/learn/{name}.py" for name in ("questions", "rivals", "run", "smollm2")),
    *(f"tempo_lab/study/{name}.py" for name in ("lab", "methods", "pseudo", "sampling", "served")),
    "tempo_lab/serving/scores.py",
    "tempo_trainer/algorithm",
)


class Rival(NamedTuple):
    """A method of the study, and its difference from the settings of the run."""

    method: str
    settings: dict[str, Any]


RIVALS = {
    "one label": Rival("one-label", {}),
    "format": Rival("format", {}),
    "fine-tuning, 1e-4": Rival("fine-tuning", {"policy_learning_rate": 1e-4}),
    "fine-tuning, 3e-4": Rival("fine-tuning", {"policy_learning_rate": 3e-4}),
    "fine-tuning, 1e-3": Rival("fine-tuning", {"policy_learning_rate": 1e-3}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the rivals that are missing, print the table; return 0, or 1 if one failed."""
    options = _options(arguments)
    path = options.out / "rivals.jsonl"
    try:
        model = options.model or smollm2.build(CACHE)
        plan = Plan(SETS[options.set], options.seed, options.iterations, {}, model)
        missing = [name for name in RIVALS if not _is_made(plan, name, read(path))]
        if missing:
            _make(plan, missing, options.build / plan.folder, path)
    except (TempoError, openai.OpenAIError, RuntimeError) as error:
        console.print(f"rivals failed: {error}", style="red")
        return 1
    print(table(read(path), read(options.out / "learn.jsonl")))
    return 0


def table(rivals: Sequence[Row], learned: Sequence[Row]) -> str:
    """Return the changes on unseen questions of each rival, below those of TEMPO on the same."""
    head = " | ".join(MEASURES.values())
    text = [f"| set, seed | method | {head} |", "|---" * (2 + len(MEASURES)) + "|"]
    for row in learned:
        if own := [rival for rival in rivals if _plan_of(rival) == _plan_of(row)]:
            text += [_line(row, f"TEMPO, {row['serving']}"), *(_line(o, o["rival"]) for o in own)]
    return "\n".join(text)


def _line(row: Row, method: str) -> str:
    changes = " | ".join(shown(row["gain"]["unseen"][measure]) for measure in MEASURES)
    return f"| {row['set']}, {row['seed']} | {method} | {changes} |"


def _plan_of(row: Row) -> list[Any]:
    return [row[name] for name in ("set", "seed", "iterations", "settings", "model")]


def _is_made(plan: Plan, name: str, rows: Sequence[Row]) -> bool:
    return any(row["rival"] == name and _plan_of(row) == _plan_of(plan.row) for row in rows)


def _make(plan: Plan, names: Iterable[str], folder: Path, path: Path) -> None:
    """Train rivals one after the other, beside one server, and add their rows."""
    stages = Stages(folder / "stages.json")  # those of `make learn`, if it measured the base
    with serve(plan, folder, "rivals") as server:
        base = stages.result(BASE_SCORES, lambda: scores(plan, server.client, BASE_NAME))
        for name in names:
            start = time.monotonic()
            commit = last_commit(MEASURED)
            served = _train(plan, RIVALS[name], server, folder / "rivals-data")
            minutes = round((time.monotonic() - start) / 60, 1)
            about = {"rival": name, "commit": commit, "minutes": minutes}
            append(path, plan.row | about | {"base": base, "served": served})
            console.print(f"{name}: {minutes:.0f} min")


def _train(plan: Plan, rival: Rival, server: Server, files: Path) -> dict[str, Any]:
    """Train by a rival's method; return the scores of its last policy."""
    parts = _files(plan, files)
    spec = Spec(
        method=rival.method,
        seed=plan.seed,
        model=str(plan.model),
        labeled=parts["labeled"],
        unlabeled=parts["unlabeled"],
        unseen=parts["unseen"],
        sampler="vllm",
        settings=_trainer_settings(server) | rival.settings,
    )
    data = Data.load(**parts)
    with VerifierPool([VERIFIER]) as pool, closing(Lab(spec, data, pool)) as lab:
        for _ in range(ROUNDS * plan.iterations):
            server.check()
            METHODS[rival.method](lab)
            lab.counters["iteration"] += 1
        return scores(plan, server.client, _publish(lab.sampler))


def _publish(sampler: LocalSampler | ServedSampler) -> str:
    """Return the name by which the server answers with the policy as it is now."""
    if not isinstance(sampler, ServedSampler):
        raise TypeError("a rival is sampled by the server")
    return sampler.publish()


def _trainer_settings(server: Server) -> dict[str, str]:
    """Return a server's TEMPO_ variables as fields of the worker's settings."""
    prefix = "TEMPO_"
    variables = server.settings.items()
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in variables
        if name.startswith(prefix)
    }


def _files(plan: Plan, folder: Path) -> dict[str, str]:
    """Write the questions of a plan; return the paths by the field of Spec."""
    split = plan.questions.split(plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"labeled": split.labeled, "unlabeled": split.asked, "unseen": split.unseen}
    return {name: _write(folder / f"{name}.jsonl", part) for name, part in parts.items()}


def _write(path: Path, questions: Iterable[Question]) -> str:
    path.write_text("".join(json.dumps(question.labeled_row) + "\n" for question in questions))
    return str(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--set", choices=list(SETS), default=next(iter(SETS)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=8, help="of each of the two rounds")
    parser.add_argument("--model", type=Path, help="directory of another model")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--build", type=Path, default=Path("build/learn"), help="data of the runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
