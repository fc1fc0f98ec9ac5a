"""Each method's reward and advantages, by hand, on two groups of four responses."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from tempo_lab.study import methods
from tempo_lab.study.lab import CachedVerifiers, Responses, Spec
from tempo_lab.study.questions import Question
from tempo_lab.study.rewards import cluster_share, majority
from tempo_trainer.algorithm import em
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.objective import group_advantages
from tempo_trainer.algorithm.reports import AdvantageSignal, Fitness, MStep, PolicyDrift, Updates
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.sampling.verifier_pool import Item
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.settings import TrainerSettings

ANSWERS = [["7", "7", "3", "5"], ["1", "2", "2", ""]]
OUTCOMES = [[-1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
HALF = 0.8660  # (1 − 1/2) / σ of two and two
LONE = 1.5  # (1 − 1/4) / σ of one and three


def test_the_answer_of_the_majority_is_rewarded() -> None:
    assert majority(ANSWERS).tolist() == [1, 1, 0, 0, 0, 1, 1, 0]


def test_of_equally_common_answers_the_first_one_wins() -> None:
    assert majority([["4", "9", "9", "4"]]).tolist() == [1, 0, 0, 1]


def test_an_empty_answer_has_no_vote() -> None:
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
    """The lab with fixed responses; it records the decks and counts that were sampled."""

    def __init__(self) -> None:
        self.settings = tiny.settings(labeled_per_step=2, unlabeled_per_step=2)
        self.networks = SimpleNamespace(policy="policy", critic="critic")
        self.verifiers = SimpleNamespace(
            answers=lambda responses: ANSWERS,
            outcomes=lambda responses, answers: OUTCOMES,
            parses=lambda responses: [[bool(answer) for answer in row] for row in ANSWERS],
        )
        self.hidden_answers: dict[str, Any] = {}
        self.budget = 12
        self.iteration = 0
        self.spec = Spec("tempo", 0, "", "", "", iterations=15)
        self.labeled_share = 0.5
        self.memory: dict[str, Any] = {}
        self.replay: list[Batch] = []
        self.sampled: list[tuple[str, int]] = []

    def sample_next(self, deck: str, count: int) -> str:
        self.sampled.append((deck, count))
        return deck

    def batch(self, responses: str) -> Batch:
        return self._rows(labeled=False)

    def labeled(self, count: int) -> Batch:
        self.sampled.append(("train", count))
        return self._rows(labeled=True)

    def one_labeled(self, count: int) -> Batch:
        self.sampled.append(("one", count))
        return self._rows(labeled=True)

    def references(self, count: int) -> Batch:
        self.sampled.append(("references", count))
        return self._rows(labeled=True)

    def held_out_window(self) -> Batch:
        return self._rows(labeled=True)

    def _rows(self, *, labeled: bool) -> Batch:
        outcomes = [outcome for row in OUTCOMES for outcome in row]
        rows = [
            Rollout("q", [1], [2, 3], [-1.0, -1.0], int(group), "stop", labeled, outcome)
            for group, outcome in zip(GROUP, outcomes, strict=True)
        ]
        return Batch.collate(rows, 0)


def fitness(auroc: float) -> Fitness:
    """Return the fitness of a critic with this AUROC within questions, measured on enough draws."""
    figures = dict.fromkeys(("auroc", "within_auroc", "within_auroc_low"), auroc)
    beyond = dict.fromkeys(("within_auroc_beyond_length", "within_auroc_beyond_length_low"), auroc)
    counts = dict.fromkeys(("draws", "mixed_draws", "mixed_questions"), 32)
    zeros = dict.fromkeys(
        ("brier", "ece", "explained_variance", "accuracy", "truncated_share"), 0.0
    )
    return Fitness(**figures, **beyond, **counts, **zeros)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace E-step, M-step and critic; return what they were called with."""
    arguments: dict[str, Any] = {"e_steps": 0, "a": None, "batch": None, "auroc": 0.9}
    updates = Updates(0.0, 0.0, 1, 0)

    def recalibrate(critic: object, batches: list[Batch], settings: object) -> Updates:
        arguments["e_steps"] += bool(batches)
        return updates

    def refine(policy: object, batch: Batch, a: Tensor, settings: TrainerSettings) -> MStep:
        arguments.update(a=a, batch=batch, settings=settings)
        return MStep(updates, PolicyDrift(0.0, 0.0, 0.0, 0.0, 0.0))

    def advantage_signal(critic: object, batch: Batch, settings: object) -> AdvantageSignal:
        return AdvantageSignal(torch.full((8, 2), 0.25), 0.0, 0.0, advantage_std=0.5)

    monkeypatch.setattr(em, "recalibrate", recalibrate)
    monkeypatch.setattr(em, "measure", lambda *_: fitness(arguments["auroc"]))
    for module in (em, methods):
        monkeypatch.setattr(module, "refine", refine)
        monkeypatch.setattr(module, "advantage_signal", advantage_signal)
    return arguments


@pytest.mark.parametrize(
    ("method", "deck", "expected"),
    [
        ("ttrl", "unlabeled", [HALF, HALF, -HALF, -HALF, -HALF, HALF, HALF, -HALF]),
        ("empo", "unlabeled", [HALF, HALF, -HALF, -HALF, -HALF, HALF, HALF, -HALF]),
        ("supervised", "train", [-0.5, -0.5, LONE, -0.5, -HALF, HALF, HALF, -HALF]),
        ("format", "unlabeled", [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, -LONE]),
        ("oracle", "unlabeled", [-0.5, -0.5, LONE, -0.5, -HALF, HALF, HALF, -HALF]),
    ],
)
def test_a_method_without_a_critic_has_one_advantage_per_response(
    method: str, deck: str, expected: list[float], calls: dict[str, Any]
) -> None:
    lab = FakeLab()
    methods.METHODS[method](lab)
    assert calls["a"][:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(calls["a"][:, 0], calls["a"][:, 1])
    assert lab.sampled == [(deck, lab.budget)]
    assert calls["e_steps"] == 0


def test_one_label_has_the_responses_of_the_whole_budget(calls: dict[str, Any]) -> None:
    lab = FakeLab()
    methods.one_label(lab)
    assert lab.sampled == [("one", lab.budget * lab.settings.group_size)]
    assert calls["a"][:, 0].tolist() == pytest.approx(
        [-0.5, -0.5, LONE, -0.5, -HALF, HALF, HALF, -HALF], abs=1e-4
    )


def test_fine_tuning_raises_each_token_of_the_references_alike(calls: dict[str, Any]) -> None:
    lab = FakeLab()
    methods.fine_tuning(lab)
    assert lab.sampled == [("references", lab.budget)]
    assert torch.equal(calls["a"], calls["batch"].mask)
    assert (calls["settings"].importance_cap, calls["settings"].kl_coefficient) == (0, 0)


@pytest.mark.parametrize(("method", "e_steps"), [("frozen", 0), ("tempo", 1)])
def test_the_critic_of_tempo_is_recalibrated_and_that_of_frozen_is_not(
    method: str, e_steps: int, calls: dict[str, Any]
) -> None:
    methods.METHODS[method](FakeLab())
    assert calls["e_steps"] == e_steps
    assert calls["a"].unique().tolist() == [0.25]  # the critic's


def test_the_critic_is_recalibrated_every_few_iterations(calls: dict[str, Any]) -> None:
    lab = FakeLab()
    lab.spec = replace(lab.spec, recalibrate_every=4)
    for lab.iteration in range(9):
        methods.tempo(lab)
    assert calls["e_steps"] == 3
    assert lab.sampled.count(("train", 2)) == 3  # nothing is sampled where no E-step is made


@pytest.mark.parametrize(("in_policy", "rows"), [(False, 0), (True, 8)])
def test_labeled_rows_train_the_policy_only_with_the_setting(
    in_policy: bool, rows: int, calls: dict[str, Any]
) -> None:
    lab = FakeLab()
    lab.settings = tiny.settings(labeled_in_policy=in_policy)
    methods.tempo(lab)
    assert int(calls["batch"].labeled.sum()) == rows


def test_an_unfit_critic_refines_nothing_in_tempo(calls: dict[str, Any]) -> None:
    calls["auroc"] = 0.4
    assert "AUROC within a question is 0.400" in methods.tempo(FakeLab())["refusal"]
    assert calls["a"] is None


def test_a_random_reward_depends_on_the_iteration_and_not_on_outcomes(
    calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    advantages = []
    for sign in (1.0, -1.0):
        flipped = [[sign * o for o in row] for row in OUTCOMES]
        monkeypatch.setitem(globals(), "OUTCOMES", flipped)
        methods.random_critic(FakeLab())
        advantages.append(calls["a"])
    assert torch.equal(*advantages)
    assert len(advantages[0][:, 0].unique()) == 8
    lab = FakeLab()
    lab.iteration = 1
    methods.random_critic(lab)
    assert not torch.equal(calls["a"], advantages[0])


def test_no_step_is_made_if_the_rewards_of_no_group_differ(
    calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ANSWERS", [["7"] * 4] * 2)
    assert "alike" in methods.METHODS["ttrl"](FakeLab())["refusal"]
    assert calls["a"] is None


class FakePool:
    """Accepts the words of the reference; reads the last word as the answer, or none after `=`."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def verify(self, items: list[Item]) -> list[Verdict]:
        self.items += items
        verdicts = []
        for item in items:
            word = item.response.split()[-1]
            extracted = None if "=" in item.response else word
            verdicts.append(Verdict(word in item.reference, extracted))
        return verdicts


def test_answers_are_read_without_the_references_and_verified_once() -> None:
    question = Question("q", [{"role": "user", "content": "?"}], "exact", {})
    texts = ("it is 7", "1 + 2 = 3", "it is 7")
    samples = [Sample((1,), (0.0,), text, "stop") for text in texts]
    responses = Responses([question], [Prompt("q", (1,))], [samples])
    pool = FakePool()
    verifiers = CachedVerifiers(pool)
    assert verifiers.answers(responses) == [["7", "1 + 2 = 3", "7"]]
    assert [item.reference for item in pool.items] == [(), ()]
    # A verdict without a reference does not stand for one with it.
    assert verifiers.outcomes(responses, {"q": ["7"]}) == [[1.0, -1.0, 1.0]]
    verifiers.outcomes(responses, {"q": ["7"]})
    assert len(pool.items) == 4
