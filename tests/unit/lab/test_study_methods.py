"""Each method's reward and advantages, by hand, on two groups of four responses."""

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from tempo_lab.study import methods
from tempo_lab.study.lab import Drawn, Judge
from tempo_lab.study.questions import Question
from tempo_lab.study.rewards import cluster_share, majority
from tempo_trainer.algorithm import em
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.objective import group_advantages
from tempo_trainer.algorithm.reports import AdvantageSignal, Fitness, MStep, PolicyDrift, Updates
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.sampling.verifier_pool import Item
from tempo_trainer.sampling.verifiers import Verdict

ANSWERS = [["7", "7", "3", "5"], ["1", "2", "2", ""]]
OUTCOMES = [[-1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
FLAT = [answer for row in ANSWERS for answer in row]
HALF, LONE = 0.8660, 1.5  # (1 − 1/2) / σ of two and two; (1 − 1/4) / σ of one and three


def test_the_majority_s_answer_is_rewarded() -> None:
    assert majority(ANSWERS).tolist() == [1, 1, 0, 0, 0, 1, 1, 0]


def test_of_equally_common_answers_the_first_one_wins() -> None:
    assert majority([["4", "9", "9", "4"]]).tolist() == [1, 0, 0, 1]


def test_no_answer_is_no_vote() -> None:
    assert majority([["", "", "", "4"]]).tolist() == [0, 0, 0, 1]
    assert majority([["", ""]]).tolist() == [0, 0]


def test_an_answer_is_worth_its_share_of_the_group() -> None:
    shares = [0.5, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5, 0.25]
    assert cluster_share(ANSWERS).tolist() == shares
    assert cluster_share([["", "", "4", "4"]]).tolist() == [0.25, 0.25, 0.5, 0.5]


def test_advantages_are_normalised_in_each_group() -> None:
    reward = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.3])
    a = group_advantages(reward, GROUP)
    assert a.tolist() == pytest.approx([LONE, -0.5, -0.5, -0.5, 0, 0, 0, 0], abs=1e-4)
    assert a[4:].tolist() == [0, 0, 0, 0]  # exactly: no rounding is blown up


class FakeLab:
    """What a method may touch, with given responses; remembers what it was asked for."""

    def __init__(self) -> None:
        self.settings = tiny.settings(labeled_per_step=2, unlabeled_per_step=2)
        self.networks = SimpleNamespace(policy="policy", critic="critic")
        self.judge = SimpleNamespace(
            answers=lambda drawn: ANSWERS, outcomes=lambda drawn, answers: OUTCOMES
        )
        self.hidden: dict[str, Any] = {}
        self.budget, self.iteration, self.recalibrate_every = 12, 0, 1
        self.replay: list[Batch] = []
        self.drawn: list[tuple[str, int]] = []

    def draw(self, deck: str, count: int) -> str:
        self.drawn.append((deck, count))
        return deck

    def batch(self, drawn: str) -> Batch:
        return self._rows(labeled=False)

    def labeled(self, count: int) -> Batch:
        self.drawn.append(("train", count))
        return self._rows(labeled=True)

    def judging(self) -> Batch:
        return self._rows(labeled=True)

    def _rows(self, *, labeled: bool) -> Batch:
        outcomes = [o for row in OUTCOMES for o in row]
        rows = [
            Rollout("q", [1], [2, 3], [-1.0, -1.0], int(g), "", "stop", labeled, o)
            for g, o in zip(GROUP, outcomes, strict=True)
        ]
        return Batch.collate(rows, 0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace E-step and M-step, and return what they were called with."""
    found: dict[str, Any] = {"e_steps": 0, "a": None, "batch": None}
    updates = Updates(0.0, 0.0, 1, 0)

    def recalibrate(critic: object, batches: list[Batch], settings: object) -> Updates:
        found["e_steps"] += bool(batches)
        return updates

    def refine(policy: object, batch: Batch, a: Tensor, settings: object) -> MStep:
        found.update(a=a, batch=batch)
        return MStep(updates, PolicyDrift(0.0, 0.0, 0.0, 0.0, 0.0))

    def give_advantages(critic: object, batch: Batch, settings: object) -> AdvantageSignal:
        return AdvantageSignal(torch.full((8, 2), 0.25), 0.0, 0.0, advantage_std=0.5)

    monkeypatch.setattr(em, "recalibrate", recalibrate)
    monkeypatch.setattr(em, "measure", lambda *_: Fitness(found.get("auroc", 0.9), 0, 0, 0, 0))
    for module in (em, methods):
        monkeypatch.setattr(module, "refine", refine)
        monkeypatch.setattr(module, "advantage_signal", give_advantages)
    return found


@pytest.mark.parametrize(
    ("method", "deck", "expected"),
    [
        ("ttrl", "unlabeled", [HALF, HALF, -HALF, -HALF, -HALF, HALF, HALF, -HALF]),
        ("empo", "unlabeled", [HALF, HALF, -HALF, -HALF, -HALF, HALF, HALF, -HALF]),
        ("supervised", "train", [-0.5, -0.5, LONE, -0.5, -HALF, HALF, HALF, -HALF]),
        ("oracle", "unlabeled", [-0.5, -0.5, LONE, -0.5, -HALF, HALF, HALF, -HALF]),
    ],
)
def test_a_method_s_advantages(
    method: str, deck: str, expected: list[float], made: dict[str, Any]
) -> None:
    lab = FakeLab()
    methods.METHODS[method].iterate(lab)
    assert made["a"][:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(made["a"][:, 0], made["a"][:, 1])
    assert lab.drawn == [(deck, lab.budget)]
    assert made["e_steps"] == 0


def test_the_critic_of_tempo_is_recalibrated_and_that_of_frozen_is_not(
    made: dict[str, Any],
) -> None:
    for method, e_steps in (("frozen", 0), ("tempo", 1)):
        methods.METHODS[method].iterate(FakeLab())
        assert made["e_steps"] == e_steps
        assert made["a"].unique().tolist() == [0.25]  # the critic's


def test_recalibration_every_few_iterations(made: dict[str, Any]) -> None:
    lab = FakeLab()
    lab.recalibrate_every = 4
    for lab.iteration in range(9):
        methods.tempo(lab)
    assert made["e_steps"] == 3
    assert lab.drawn.count(("train", 2)) == 3  # nothing is sampled for an E-step that is not made


def test_labeled_rows_train_the_policy_only_where_the_settings_say_so(made: dict[str, Any]) -> None:
    for mixed, rows in ((False, 0), (True, 8)):
        lab = FakeLab()
        lab.settings = tiny.settings(labeled_in_policy=mixed)
        methods.tempo(lab)
        assert int(made["batch"].labeled.sum()) == rows


def test_an_unfit_critic_refines_nothing_in_tempo(made: dict[str, Any]) -> None:
    made["auroc"] = 0.4
    assert "AUROC 0.400" in methods.tempo(FakeLab())["refusal"]
    assert made["a"] is None


def test_a_random_reward_has_nothing_to_do_with_outcomes(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for sign in (1.0, -1.0):
        flipped = [[sign * o for o in row] for row in OUTCOMES]
        monkeypatch.setitem(globals(), "OUTCOMES", flipped)
        methods.random_critic(FakeLab())
        found.append(made["a"])
    assert torch.equal(*found)
    assert len(found[0][:, 0].unique()) == 8
    lab = FakeLab()
    lab.iteration = 1
    methods.random_critic(lab)
    assert not torch.equal(made["a"], found[0])


def test_no_step_is_made_where_no_group_has_a_difference(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ANSWERS", [["7"] * 4] * 2)
    assert "alike" in methods.METHODS["ttrl"].iterate(FakeLab())["refusal"]
    assert made["a"] is None


class FakePool:
    """Accepts what is in the reference; reads the answer `last word`, or none in a derivation."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def verify(self, items: list[Item]) -> list[Verdict]:
        self.items += items
        last = [item.response.split()[-1] for item in items]
        reads = ["=" not in item.response for item in items]
        return [
            Verdict(word in item.reference, word if read else None)
            for item, word, read in zip(items, last, reads, strict=True)
        ]


def drawn(*texts: str) -> Drawn:
    question = Question("q", [{"role": "user", "content": "?"}], "exact", {})
    samples = [Sample((1,), (0.0,), text, "stop") for text in texts]
    return Drawn([question], [Prompt("q", (1,))], [samples])


def test_answers_are_read_without_the_references() -> None:
    pool = FakePool()
    judge = Judge(pool)
    responses = drawn("it is 7", "1 + 2 = 3", "it is 7")
    assert judge.answers(responses) == [["7", "1 + 2 = 3", "7"]]
    assert [item.reference for item in pool.items] == [(), ()]
    # What was read without a reference is no verdict on it.
    assert judge.outcomes(responses, {"q": ["7"]}) == [[1.0, -1.0, 1.0]]
    asked = len(pool.items)
    judge.outcomes(responses, {"q": ["7"]})
    assert len(pool.items) == asked == 4
