"""Other methods beside `make learn`: the same questions, settings and budget, and their table."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_lab.learn import results, rivals
from tempo_lab.learn.questions import SETS
from tempo_lab.learn.run import ENVIRONMENT, Plan
from tempo_lab.rows import read
from tempo_lab.study.lab import Spec
from tempo_lab.study.methods import METHODS
from tempo_lab.study.questions import Data

PLAN = Plan(SETS["last"], seed=1, iterations=8, settings={}, model=Path("models/small"))


def test_each_rival_is_a_method_of_the_study() -> None:
    assert {rival.method for rival in rivals.RIVALS.values()} <= METHODS.keys()


def test_a_rival_trains_with_the_settings_of_the_server() -> None:
    server: Any = SimpleNamespace(settings=ENVIRONMENT | {"TEMPO_BASE_URL": "http://127.0.0.1:1"})
    settings = rivals._trainer_settings(server)
    for rival in rivals.RIVALS.values():
        spec = Spec("tempo", 1, "m", "l", "u", settings=settings | rival.settings)
        own = spec.worker_settings()
        assert own.kl_coefficient == 0.1
        assert own.labeled_per_step == 12
        assert own.policy_learning_rate == rival.settings.get("policy_learning_rate", 5e-4)


def test_a_rival_learns_from_the_same_questions(tmp_path: Path) -> None:
    data = Data.load(**rivals._files(PLAN, tmp_path))
    split = PLAN.questions.split(PLAN.seed)
    assert len(data.train.questions) + len(data.held_out.questions) == len(split.labeled)
    texts = {question.messages[-1]["content"] for question in data.unlabeled.questions}
    assert texts == {question.question for question in split.asked}
    assert len(data.measured["unseen"].questions) == len(split.unseen)


def scores(**values: list[float]) -> dict[str, dict[str, list[float]]]:
    measured = {name: values.get(name, [0.0, 1.0]) for name in results.MEASURES}
    return {"unseen": measured, "asked": measured}


def test_a_finished_rival_is_not_trained_again_and_stands_below_tempo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = scores(greedy=[0.0, 0.0, 1.0, 0.0])
    better = scores(greedy=[1.0, 1.0, 1.0, 0.0])
    figures = {"base": base, "served": better}
    results.append(tmp_path / "learn.jsonl", PLAN.row | figures | {"serving": "tempo-v1"})
    for name in rivals.RIVALS:
        about = {"rival": name, "commit": "abc", "minutes": 1.0}
        results.append(tmp_path / "rivals.jsonl", PLAN.row | about | {"base": base, "served": base})
    monkeypatch.setattr(rivals, "_make", lambda *_: pytest.fail("a rival was trained again"))
    command = ["--seed", "1", "--model", "models/small", "--out", str(tmp_path)]
    assert rivals.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| last, 1 | TEMPO, tempo-v1 | +50.0")
    assert [line.split("|")[2].strip() for line in lines[3:]] == list(rivals.RIVALS)
    assert "| +0.0 [+0.0, +0.0] |" in lines[3]
    assert len(read(tmp_path / "rivals.jsonl")) == len(rivals.RIVALS)
