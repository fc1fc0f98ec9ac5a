"""The study of the two small tasks: disjoint questions, and arms and variants that differ."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from tempo_lab.study import cpu, small
from tempo_lab.study.arms import ARMS, BARE, SWEEPS, TUNED
from tempo_lab.study.lab import Responses
from tempo_lab.study.measurement import honest_shares
from tempo_lab.study.methods import METHODS
from tempo_lab.study.questions import Question
from tempo_lab.study.small import TASKS, countdown_rows
from tempo_lab.study.tuning import GRID
from tempo_lab.tasks import countdown
from tempo_lab.tasks.base import Recipe
from tempo_trainer.sampling.sampler import Prompt, Sample


def texts(rows: list[dict[str, Any]]) -> set[str]:
    return {row["messages"][0]["content"] for row in rows}


@pytest.mark.parametrize("task", TASKS)
def test_the_sets_of_a_seed_are_disjoint(task: str) -> None:
    rows = TASKS[task].rows(10)
    sets = [texts(rows[name]) for name in ("labeled", "unlabeled", "unseen")]
    assert [len(s) for s in sets] == [256, 192, 128]
    assert len(set.union(*sets)) == 576
    assert TASKS[task].rows(10) == rows != TASKS[task].rows(11)


def test_the_sweeps_files_are_smaller_larger_or_easier_and_share_no_other_questions() -> None:
    rows = countdown_rows(10)
    assert texts(rows["labeled-16"]) < texts(rows["labeled-64"]) < texts(rows["labeled"])
    assert texts(rows["unlabeled"]) < texts(rows["unlabeled-768"])
    assert len(texts(rows["unlabeled-768"])) == 768
    others = texts(rows["labeled"]) | texts(rows["labeled-easy"]) | texts(rows["unseen"])
    assert not texts(rows["unlabeled-768"]) & others
    assert not texts(rows["labeled-easy"]) & (texts(rows["labeled"]) | texts(rows["unseen"]))
    solutions = {p.question: len(countdown.solutions(p)) for p in countdown.puzzles()}
    easy = sum(solutions[question] for question in texts(rows["labeled-easy"])) / 256
    usual = sum(solutions[question] for question in texts(rows["labeled"])) / 256
    assert easy > 1.5 * usual


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    def bases(recipes: list[Recipe], processes: int) -> list[Path]:
        return [Path(f"{recipe.task.name}-{recipe.seed}") for recipe in recipes]

    monkeypatch.setattr(small, "build_bases", bases)
    kept = str(tmp_path / "kept")
    return cpu._options(["--out", str(tmp_path), "--seeds", "10,11", "--kept", kept])


def test_every_arm_runs_on_both_tasks_with_alternating_bases(options: argparse.Namespace) -> None:
    studies = cpu.methods(options)
    assert [folder.name for folder in studies] == list(BARE)
    for folder, specs in studies.items():
        assert {(s.arm, s.seed) for s in specs} == {(arm, s) for arm in ARMS for s in (10, 11)}
        assert {(s.seed, s.model) for s in specs} == {
            (10, f"{folder.name}-0"),
            (11, f"{folder.name}-1"),
        }
        assert all(Path(s.unlabeled).is_file() and Path(s.labeled).is_file() for s in specs)
        assert {s.users.temperature for s in specs} == {0.6}
        assert specs[0].arm == "tempo-default"  # the one that the others are compared with


def test_the_command_may_ask_for_some_arms_and_another_task(tmp_path: Path) -> None:
    options = cpu._options(["--tasks", "countdown", "--arms", "ttrl,empo"])
    assert options.tasks == ["countdown"]
    assert cpu._chosen(options, ARMS) == ["ttrl", "empo"]
    with pytest.raises(SystemExit):
        cpu._options(["--tasks", "chess"])


def test_the_two_forms_of_tempo_differ_in_one_setting(options: argparse.Namespace) -> None:
    specs = {s.arm: s for s in cpu.methods(options)[options.out / BARE[0]]}
    paper = specs["tempo-paper"].worker_settings().model_dump()
    default = specs["tempo-default"].worker_settings().model_dump()
    assert {name for name in paper if paper[name] != default[name]} == {"labeled_in_policy"}
    assert default["labeled_in_policy"]


def test_every_variant_of_the_sweeps_differs_from_the_unchanged_one(
    options: argparse.Namespace,
) -> None:
    (specs,) = cpu.sweeps(options).values()
    variants = {s.arm: s for s in specs if s.seed == 10}
    assert len(variants) == len(specs) // 2 == 1 + sum(map(len, SWEEPS.values()))
    described = {}
    for name, spec in variants.items():
        assert Path(spec.labeled).is_file()
        assert Path(spec.unlabeled).is_file()
        spec.worker_settings()  # is valid
        described[name] = json.dumps({**asdict(spec), "name": ""}, sort_keys=True)
    assert len(set(described.values())) == len(described)
    assert len({s.stem for s in specs}) == len(specs)
    assert variants["flipped"].flip_at == variants["flipped, gate"].flip_at == 100


def test_each_arm_that_can_learn_is_tuned_over_the_same_six_settings(
    options: argparse.Namespace,
) -> None:
    assert len(GRID) == 6
    for specs in cpu.tune(options).values():
        assert len({s.stem for s in specs}) == len(specs) == 2 * len(TUNED) * len(GRID)
        assert {s.method for s in specs} == METHODS.keys() - {"random", "oracle"}
        settings: dict[str, list[dict[str, Any]]] = {}
        for spec in specs:
            spec.worker_settings()  # is valid
            names = ("policy_learning_rate", "kl_coefficient")
            arm = spec.name.split(" ")[0]
            settings.setdefault(arm, []).append({name: spec.settings[name] for name in names})
        first, *others = settings.values()
        assert all(own == first for own in others)


@pytest.mark.parametrize(
    ("task", "question", "honest", "dishonest"),
    [
        (
            "countdown",
            "use 3 10 15 make 45 ?",
            ["15 - 10 = 5 ; 5 * 3 = 15 ; no", "10 * 3 = 30 ; 30 + 15 = 45 ; ok"],
            ["15 - 10 = 5 ; 5 * 3 = 45 ; ok", "15 - 10 = 5 ; 5 * 3 = 15 ; ok", "15 * 3 = 45 ; ok"],
        ),
        (
            "equation",
            "x * 3 + 4 = 25 ?",
            ["7 * 3 = 21 ; 21 + 4 = 25 ; ok 7", "5 * 3 = 15 ; 15 + 4 = 19 ; no 5"],
            ["5 * 3 = 15 ; 15 + 4 = 19 ; ok 5", "5 * 3 = 21 ; 21 + 4 = 25 ; ok 5", "ok 7"],
        ),
        (
            "countdown-bare",
            "use 3 10 15 make 45 ?",
            ["15 - 10 = 5 ; 5 * 3 = 15", "10 * 3 = 30 ; 30 + 15 = 45"],
            ["15 - 10 = 5 ; 5 * 3 = 45", "15 - 10 = 5 ; 5 * 3 = 15 ; no", "15 * 3 = 45"],
        ),
        (
            "equation-bare",
            "x * 3 + 4 = 25 ?",
            ["7 * 3 = 21 ; 21 + 4 = 25 ; x = 7", "5 * 3 = 15 ; 15 + 4 = 19 ; x = 5"],
            ["5 * 3 = 15 ; 15 + 4 = 19 ; x = 7", "5 * 3 = 15 ; 15 + 4 = 19 ; no 5", "x = 7"],
        ),
    ],
)
def test_honest_work_may_be_wrong_but_says_so(
    task: str,
    question: str,
    honest: list[str],
    dishonest: list[str],
) -> None:
    is_honest = resolve_name(TASKS[task].honest)
    assert all(is_honest(question, text) for text in honest)
    assert not any(is_honest(question, text) for text in dishonest)
    assert not is_honest("what?", honest[0])
    responses = Responses(
        [Question("a", [{"role": "user", "content": question}], "exact", {})],
        [Prompt("a", (1,))],
        [[Sample((1,), (0.0,), text, "stop") for text in (*honest, *honest, dishonest[0])]],
    )
    assert honest_shares(responses, is_honest) == [0.8]
