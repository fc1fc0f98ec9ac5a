"""The simulation of the gate and the sentinel: its worlds are as described, its rows resume."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logit

from tempo_lab import rows
from tempo_lab.simulation import deployments, main, promotions, rollbacks, worlds
from tempo_lab.simulation.promotions import Life, Setting
from tempo_lab.simulation.worlds import Kind, World
from tempo_storage.decoding import GREEDY, PLAIN

KINDS = [Kind("countdown", 0.6), Kind("llm", 1.0), Kind("countdown", 0.6, 0.10)]
EASY = Setting(Kind("countdown", 0.6), 64)
LIVES = range(20)


# Worlds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [-0.02, 0.0, 0.1])
def test_the_mean_gain_of_a_candidate_over_the_population_is_exact(kind: Kind, gain: float) -> None:
    rng = np.random.default_rng(1)
    base = kind.difficulties(rng, 200_000)
    served = kind.served(rng, base)
    assert (served - base).mean() == pytest.approx(kind.serving_gain, abs=0.003)
    assert (kind.candidate(rng, served, gain) - served).mean() == pytest.approx(gain, abs=0.003)


def test_a_gain_is_spread_over_questions_in_logits() -> None:
    kind = Kind("countdown", 0.6)
    rng = np.random.default_rng(1)
    base = kind.difficulties(rng, 50_000)
    shift = logit(kind.candidate(rng, base, 0.1)) - logit(base)
    assert shift.std() == pytest.approx(0.6, abs=0.01)


def test_answers_are_right_as_often_as_the_version_is() -> None:
    share = np.array([0.0, 0.3, 1.0])
    world = World(np.random.default_rng(1), {0: share})
    answers = world.answer(0, (), 4_000, PLAIN)
    assert answers.outcomes.shape == (3, 4_000)
    assert answers.accuracy == pytest.approx(share, abs=0.03)


def test_a_greedy_answer_is_the_most_common_one() -> None:
    world = World(np.random.default_rng(1), {0: np.array([0.01, 0.99])})
    assert world.answer(0, (), 1, GREEDY).accuracy.tolist() == [0.0, 1.0]


def test_a_version_may_lose_a_share_of_another_ones_greedy_answers() -> None:
    world = World(np.random.default_rng(1), {0: np.ones(4_000), 1: np.ones(4_000)})
    world.greedy_of = {1: (0, 0.25)}
    assert world.answer(1, (), 1, GREEDY).accuracy.mean() == pytest.approx(0.75, abs=0.03)
    assert world.answer(0, (), 1, GREEDY).accuracy.mean() == 1.0


# Decisions ----------------------------------------------------------------------------------------


def promotion_share(gain: float, **options: float) -> float:
    """Return the share of lives whose first candidate is promoted."""
    return float(np.mean([Life(EASY, number).test(gain, **options).promote for number in LIVES]))


def test_a_clearly_better_candidate_is_promoted_in_most_lives_and_a_useless_one_in_few() -> None:
    assert promotion_share(0.2) >= 0.9
    assert promotion_share(0.0) <= 0.1
    assert promotion_share(-0.05) == 0.0


def test_a_better_candidate_that_is_greedily_worse_is_seldom_promoted() -> None:
    assert promotion_share(0.2, greedy_loss=0.25) <= 0.2


def test_a_candidate_must_beat_a_serving_version_that_is_better_than_the_base() -> None:
    setting = Setting(Kind("countdown", 0.6, 0.10), 64)
    decisions = [Life(setting, number).test(0.0) for number in LIVES]
    assert sum(decision.promote for decision in decisions) <= 1
    assert all(len(decision.looks[0].gains) == 2 for decision in decisions)


def test_a_life_is_the_same_each_time() -> None:
    texts = [[Life(EASY, number).test(0.1).reason for number in (0, 1)] for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_a_row_has_the_shares_of_useless_worse_and_better_candidates() -> None:
    row = promotions.row(Setting(Kind("countdown", 0.6), 32), lives=2, powers=1)
    assert (row["questions"], row["spread"], row["held out"], row["lives"]) == (
        *("countdown", 0.6, 32),
        2,
    )
    stages = {f"+{gain} at test {test}" for gain in (5, 10) for test in promotions.STAGES}
    names = {"useless, once in 50 tests", "2 points worse, once in 50 tests", "+10, greedy worse"}
    assert names < row.keys()
    assert "+10 at test 1" in stages & row.keys()


@pytest.mark.parametrize(("gain", "least", "most"), [(-0.25, 1.0, 1.0), (None, 0.0, 0.1)])
def test_the_sentinel_rolls_back_a_bad_version_and_leaves_one_that_is_the_base(
    gain: float | None, least: float, most: float
) -> None:
    rng = np.random.default_rng(3)
    kind = Kind("countdown", 0.6)
    ends = [rollbacks.is_rolled_back(kind, 64, gain, 10, rng) for _ in LIVES]
    assert least <= np.mean(ends) <= most


def test_a_deployment_that_learns_is_promoted_and_one_that_decays_is_not() -> None:
    def run(drift: float) -> Any:
        rng = np.random.default_rng(2)
        return deployments.Deployment(Kind("countdown", 0.6), 64, drift, rng).run()

    learned = run(0.02)
    assert learned.promoted_at
    assert learned.gain(learned.serving) > 0.05
    assert not learned.is_rolled_back
    decayed = run(-0.02)
    assert (decayed.promoted_at, decayed.serving) == ([], 0)
    assert decayed.tests < 15  # the gate waits after refusals


# Rows ---------------------------------------------------------------------------------------------


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let each table be one row that takes no time; the list names the tables that were made."""
    names: list[str] = []

    def simulate(table: str, scale: float, setting: Setting | None = None) -> list[dict[str, Any]]:
        names.append(table)
        if setting is None:
            return [{"share": 0.5}]
        kind = setting.kind
        values = (kind.name, kind.spread, kind.serving_gain, setting.questions)
        return [dict(zip(main.PARAMETERS, values, strict=True)) | {"useless": 0.01}]

    monkeypatch.setattr(main, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(main, "simulate", simulate)
    monkeypatch.setattr(promotions, "settings", lambda: [EASY])
    return names


def test_rows_that_are_there_are_kept_and_fresh_ones_begin_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tables: list[str]
) -> None:
    assert main.main(["--out", str(tmp_path)]) == 0
    assert sorted(tables) == sorted([*main.TABLES, "promotions"])
    written = {path.stem: path.read_text() for path in tmp_path.glob("*.jsonl")}
    assert written.keys() == set(tables)
    assert "| countdown | 0.6 | 0.0 | 64 | 0.01 |" in capsys.readouterr().out
    tables.clear()
    main.main(["--out", str(tmp_path)])
    assert tables == []
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.jsonl")} == written
    main.main(["--out", str(tmp_path), "--fresh"])
    assert "promotions" in tables
    assert len(rows.read(tmp_path / "promotions.jsonl")) == 1


def test_an_interrupted_simulation_makes_the_settings_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: list[str]
) -> None:
    main.main(["--out", str(tmp_path)])
    tables.clear()
    other = Setting(Kind("llm", 1.0), 32)
    monkeypatch.setattr(promotions, "settings", lambda: [EASY, other])
    main.main(["--out", str(tmp_path)])
    assert tables == ["promotions"]
    assert [row["questions"] for row in rows.read(tmp_path / "promotions.jsonl")] == [
        "countdown",
        "llm",
    ]


def test_each_row_names_the_commit_of_the_code_that_it_measures(tmp_path: Path) -> None:
    path = tmp_path / "coverage.jsonl"
    rows.append(path, [{"share": 0.95}, {"share": 0.94}], measured=main.MEASURED["coverage"])
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["commit"] == second["commit"] == rows.last_commit(main.MEASURED["coverage"])
    assert rows.read(path) == [first, second]
    table = main.markdown([{"share": 0.9, "commit": "abc"}, {"more": 1, "commit": "def"}])
    assert table == "| share | more |\n| --- | --- |\n| 0.9 |  |\n|  | 1 |\n\n" + (
        "Made at abc, def by `make simulation`."
    )


@pytest.mark.parametrize("table", main.MEASURED)
def test_the_files_that_a_table_measures_exist(table: str) -> None:
    trainer = Path(worlds.__file__).parents[2]
    assert [name for name in main.MEASURED[table] if not (trainer / name).exists()] == []
