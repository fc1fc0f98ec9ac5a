"""`make learn`: the question sets, a run that goes on where it stopped, the table of gains."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tempo_lab.learn import main, results
from tempo_lab.learn.questions import SETS, QuestionSet
from tempo_lab.learn.results import append, examples, gains, is_made, table
from tempo_lab.learn.run import Plan, Stages, hopeless
from tempo_lab.rows import read

SETS_BY_NAME = pytest.mark.parametrize("one", SETS.values(), ids=SETS)
PLAN = Plan(SETS["last"], seed=1, iterations=8, settings={}, model=Path("models/small"))
KL = {"TEMPO_KL_COEFFICIENT": "0"}


@SETS_BY_NAME
def test_a_set_has_six_thousand_questions_none_equal_up_to_order(one: QuestionSet) -> None:
    keys = {frozenset(re.findall(r"\d+", question.question)) for question in one.questions}
    assert len(keys) == len(one.questions) == 6_000


@SETS_BY_NAME
def test_a_split_is_disjoint_and_the_same_for_its_seed(one: QuestionSet) -> None:
    split = one.split(1)
    assert [len(part) for part in split] == [128, 256, 256]
    assert len({question for part in split for question in part}) == 640
    assert split == one.split(1)
    assert split != one.split(2)


@SETS_BY_NAME
def test_the_verifier_takes_the_answer_and_no_other_number(one: QuestionSet) -> None:
    question = one.questions[0]
    assert question.is_solved_by(f"The answer is {question.answer}.")
    assert not question.is_solved_by(f"The answer is {question.answer + 1}.")


@pytest.mark.parametrize(
    ("plain", "remedy"),
    [([0.0, 0.0], "easier"), ([1.0, 1.0], "harder"), ([0.0, 0.1], ""), ([1.0, 0.9], "")],
)
def test_a_base_that_is_never_or_always_right_ends_the_run_with_a_remedy(
    plain: list[float], remedy: str
) -> None:
    assert remedy in hopeless(plain)
    assert bool(hopeless(plain)) is bool(remedy)


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        stages = Stages(tmp_path / "run" / "stages.json")
        assert stages.result("users ask", lambda: made.append(1) or 256) == 256
    assert made == [1]
    assert stages.minutes == {"users ask": 0.0}


def scores(**values: list[float]) -> dict[str, dict[str, list[float]]]:
    measured = {name: values.get(name, [0.0, 1.0]) for name in results.MEASURES}
    return {"unseen": measured, "asked": measured}


def run(plan: Plan, served: list[float]) -> dict[str, Any]:
    example = {"question": "What is 1 + 2?", "answer": "3", "base": "4", "served": "3"}
    return plan.row | {
        "base": scores(greedy=[0.0, 0.0, 1.0, 0.0]),
        "served": scores(greedy=served),
        "serving": "tempo-v1",
        "minutes": {},
        "rounds": [],
        "examples": [example],
    }


def test_a_gain_is_paired_by_question() -> None:
    one = run(PLAN, [1.0, 1.0, 1.0, 1.0])
    gain = gains(one["base"], one["served"])
    mean, low, high = gain["unseen"]["greedy"]
    assert mean == 0.75
    assert low == pytest.approx(0.75 - 3.182 * 0.25, abs=1e-3)  # t of 3 degrees, σ / √n = .25
    assert high == pytest.approx(0.75 + 3.182 * 0.25, abs=1e-3)


def test_the_table_pools_the_seeds_of_one_plan_alone(tmp_path: Path) -> None:
    path = tmp_path / "learn.jsonl"
    append(path, run(PLAN, [1.0, 1.0, 1.0, 1.0]))
    append(path, run(replace(PLAN, seed=2), [1.0, 0.0, 1.0, 0.0]))
    append(path, run(replace(PLAN, settings=KL), [0.0, 0.0, 0.0, 0.0]))
    text = table(read(path))
    two = "| last, small, 2 × 8 iterations | unseen | greedy | 1 (tempo-v1), 2 (tempo-v1) | 0.250"
    assert f"{two} | 0.750 | +50.0 [" in text
    assert "8 iterations, TEMPO_KL_COEFFICIENT=0 | unseen | greedy | 1 (tempo-v1) | 0.250" in text


def test_the_examples_are_those_of_the_first_seed_of_each_plan(tmp_path: Path) -> None:
    path = tmp_path / "learn.jsonl"
    for plan in (PLAN, replace(PLAN, seed=2), replace(PLAN, settings=KL)):
        append(path, run(plan, [1.0, 1.0, 1.0, 1.0]))
    text = examples(read(path))
    assert "What is 1 + 2?  (right: 3)" in text
    assert text.count("served: 3") == 2


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"iterations": 4}, {"settings": KL}, {"model": Path("models/other")}]
)
def test_another_plan_is_made_in_another_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "learn.jsonl"
    append(path, run(PLAN, [1.0, 1.0, 1.0, 1.0]))
    assert is_made(PLAN, read(path))
    other = replace(PLAN, **change)
    assert not is_made(other, read(path))
    assert other.folder != PLAN.folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--sets", "songs"], "'songs'"), (["--setting", "KL=1"], "TEMPO_NAME=value")],
)
def test_a_wrong_option_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main.main(arguments)
    assert message in capsys.readouterr().err
