"""What stays in the worker's memory returns to what the ledger knows."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import select
from transformers import Qwen3Config, Qwen3ForCausalLM

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.ledger.models import Adapter, Iteration, Job, LabeledExample, Question
from tempo_storage.ledger.sessions import open_database
from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs import rounds
from tempo_trainer.jobs.rounds import starting_checkpoint
from tempo_trainer.learning.learner import DIRTY, UNTRAINED, Learner, World
from tempo_trainer.sampling.sampler import Prompt, Sample, SamplingError, rollouts_of
from tempo_trainer.sampling.verifier_pool import TIMED_OUT, Item, VerifierError
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.worker_settings import WorkerSettings


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    settings = WorkerSettings(data_dir=tmp_path, lora_rank=2, critic_rank=2)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    sessions = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    world = World(
        settings=settings,
        sessions=sessions,
        store=AdapterStore(settings.adapters_dir),
        sampler=None,
        rollouts=None,
        verifiers=None,
        base="base",
        epoch=lambda: 1,
        should_stop=lambda: False,
    )
    yield Learner(world, Networks(Qwen3ForCausalLM(config), settings))
    sessions.kw["bind"].dispose()


def change(learner: Learner) -> None:
    with torch.no_grad():
        learner.networks.critic.value_head.bias += 1.0
    learner.progress.m_steps += 1
    learner.progress.drawn["train"] += 16


def bias(learner: Learner) -> float:
    return learner.networks.critic.value_head.bias.item()


def test_the_untrained_state_can_be_returned_to_more_than_once(learner: Learner) -> None:
    for _ in range(2):
        change(learner)
        learner.save("job-1")
        learner.restore(UNTRAINED)
        assert (bias(learner), learner.progress.m_steps) == (0.0, 0)
        assert learner.progress.drawn == {"train": 0, "held_out": 0, "unlabeled": 0}


def test_a_checkpoint_brings_back_weights_and_counters(learner: Learner) -> None:
    change(learner)
    learner.save("job-1")
    change(learner)
    learner.save("job-2")
    learner.restore("job-1")
    assert (bias(learner), learner.progress.m_steps, learner.progress.drawn["train"]) == (
        1.0,
        1,
        16,
    )


def test_an_iteration_says_what_it_went_on_from_and_what_it_learned_from(learner: Learner) -> None:
    sessions = learner.world.sessions
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        ledger.jobs.create(s, "a", "round", {})
    for job, position, m_steps in (("a", 0, 0), ("a", 1, 1), ("a", 2, 0), ("b", 1, 1)):
        learner.checkpoint = DIRTY
        asked = [Question(id=f"{job}{position}", content_hash="", tenant="")]
        learner.commit(job, position, metrics={"m_steps": m_steps}, questions=asked)
        if position == 1:
            with sessions.begin() as s:
                version = {"version": len(job) + ord(job), "status": "candidate", "parent": 0}
                came_of = {"job_id": job, "checkpoint": f"{job}-1", "sha256": "", "bytes": 0}
                s.add(Adapter(**version, **came_of))
        if position == 2:
            learner.restore("a-1")
    with sessions() as s:
        rows = {row.checkpoint: row.parent for row in s.scalars(select(Iteration))}
        assert rows == {"a-0": "", "a-1": "a-0", "a-2": "a-1", "b-1": "a-1"}
        assert ledger.lineage.question_ids(s, "a-2") == [
            "a1"
        ]  # those of a refused M-step taught nothing
        assert ledger.lineage.question_ids(s, "b-1") == ["a1", "b1"]


def test_a_committed_iteration_has_its_jobs_attempts_counted_anew(learner: Learner) -> None:
    sessions = learner.world.sessions
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        for name in ("a", "b"):
            ledger.jobs.create(s, name, "round", {}).attempts = 3
    learner.commit("a", 1, metrics={}, questions=[])
    with sessions() as s:
        assert [ledger.jobs.get(s, name).attempts for name in ("a", "b")] == [1, 3]


def test_the_checkpoint_of_a_job_that_waits_to_go_on_outlasts_another_job(learner: Learner) -> None:
    with learner.world.sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        for name in ("a", "b"):
            ledger.jobs.create(s, name, "round", {})
    for name, position in (("a", 1), ("a", 2), ("b", 1)):
        learner.commit(name, position, metrics={}, questions=[])
    kept = {path.name for path in learner.world.settings.checkpoints_dir.iterdir()}
    assert kept == {"a-2", "b-1"}


def train(learner: Learner) -> None:
    """Change weights and optimiser state as an M-step does, without one."""
    for parameter in learner.networks.adapter_parameters("policy").values():
        parameter.grad = torch.ones_like(parameter)
    learner.networks.policy.optimiser.step(0.0)
    learner.progress.m_steps += 1


def optimiser_steps(learner: Learner) -> list[float]:
    state = learner.networks.state_dict()["optimisers"]["policy"]
    return [float(value["step"]) for value in state["state"].values()]


def end_round(learner: Learner, version: int, *, promoted: bool) -> None:
    """Let a round of one M-step end at the gate as `version`."""
    name, sessions = f"r{version}", learner.world.sessions
    with sessions.begin() as s:
        job = ledger.jobs.create(s, name, "round", {})
    learner.restore(starting_checkpoint(learner, job))
    train(learner)
    learner.commit(name, 1, metrics={"m_steps": 1}, questions=[])
    with sessions.begin() as s:
        row = Adapter(
            version=version, parent=ledger.versions.serving(s).version, job_id=name, sha256=""
        )
        row.checkpoint, row.bytes, row.status = learner.checkpoint, 0, "candidate"
        s.add(row)
        s.flush()
        if promoted:
            ledger.versions.promote(s, version)
        else:
            row.status = "rejected"
        result = {"sequence": ledger.versions.serving(s).sequence, "checkpoint": learner.checkpoint}
        ledger.jobs.finish(s, name, "succeeded", result=result)


def test_after_a_rollback_training_goes_on_from_that_version_optimiser_included(
    learner: Learner,
) -> None:
    sessions, following = learner.world.sessions, Job(id="next")
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
    end_round(learner, 1, promoted=True)
    weights = learner.networks.state_dict()["weights"]
    end_round(learner, 2, promoted=False)  # not worse beyond doubt: the next goes on from it
    assert starting_checkpoint(learner, following) == "r2-1"
    end_round(learner, 3, promoted=True)
    assert starting_checkpoint(learner, following) == "r3-1"
    assert set(optimiser_steps(learner)) == {3.0}
    with sessions.begin() as s:
        ledger.versions.roll_back(s, to=1)
    learner.restore(starting_checkpoint(learner, following))
    assert learner.checkpoint == "r1-1"
    assert set(optimiser_steps(learner)) == {1.0}
    restored = learner.networks.state_dict()["weights"]
    assert all(torch.equal(restored[name], weights[name]) for name in weights)
    end_round(learner, 4, promoted=False)
    with sessions.begin() as s:
        ledger.jobs.create(s, "check", "check", {}).status = "succeeded"
    assert starting_checkpoint(learner, following) == "r4-1"
    with sessions.begin() as s:  # the same version serves again: what was in between is gone
        ledger.versions.roll_back(s, to=ledger.versions.BASE)
        ledger.versions.roll_back(s, to=1)
    assert starting_checkpoint(learner, following) == "r1-1"
    with sessions.begin() as s:
        ledger.versions.roll_back(s, to=ledger.versions.BASE)
    assert starting_checkpoint(learner, following) == UNTRAINED


def test_a_warm_up_that_is_paused_leaves_the_worker_to_others(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, made = learner.world.sessions, list[str]()

    def recalibrate_once(adapter: str) -> None:
        made.append(adapter)
        with sessions.begin() as s:
            ledger.training.set_paused(s, True)

    monkeypatch.setattr(learner, "fitness", lambda _: None)
    monkeypatch.setattr(learner, "recalibrate_once", recalibrate_once)
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        job = ledger.jobs.create(s, "a", "recalibrate", {})
        job.serving_sequence = ledger.versions.serving(s).sequence
    with pytest.raises(StoppedError, match="training is paused"):
        rounds.recalibrate(learner, job)
    assert made == ["tempo-v0"]


@pytest.mark.fault(
    12, "a loss or gradient that is no number", promise="three steps in a row pause training"
)
def test_three_steps_in_a_row_that_are_no_number_pause_training(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([math.nan, math.nan, 0.5, math.nan, math.nan, math.nan, math.nan])

    def recalibrate_once(adapter: str) -> None:
        learner.networks.critic.optimiser.step(next(losses))

    monkeypatch.setattr(learner, "fitness", lambda _: None)
    monkeypatch.setattr(learner, "recalibrate_once", recalibrate_once)
    with learner.world.sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        job = ledger.jobs.create(s, "a", "recalibrate", {})
        job.serving_sequence = ledger.versions.serving(s).sequence
    with pytest.raises(StoppedError, match="training is paused: 3 optimiser steps of the critic"):
        rounds.recalibrate(learner, job)
    assert next(losses) is math.nan  # the last of them was never made
    with learner.world.sessions() as s:
        [event] = [e for e in ledger.events.find(s, job_id="a") if e.level == "error"]
        assert ledger.training.get(s).reason == event.message
    assert "with a lower TEMPO_CRITIC_LEARNING_RATE" in event.message


def test_a_round_without_warm_up_steps_goes_on_after_its_first_commit(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learner.world.sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        job = ledger.jobs.create(s, "a", "round", {})
    learner.commit("a", rounds.WARM_UP, metrics={"e_steps": 0}, questions=[])

    def stop(*_: object) -> None:
        raise StoppedError("here the first iteration would begin")

    monkeypatch.setattr(rounds, "refuse_without_questions", lambda _: None)
    monkeypatch.setattr(rounds, "go_on", stop)
    with pytest.raises(StoppedError, match="the first iteration"):  # and no second warm-up
        rounds.round_(learner, job)


def test_a_round_goes_on_only_while_nobody_stops_pauses_cancels_or_rolls_back(
    learner: Learner,
) -> None:
    sessions = learner.world.sessions
    with sessions.begin() as s:
        job = ledger.jobs.create(s, "r", "round", {})
        job.serving_sequence = ledger.versions.serving(s).sequence
    rounds.go_on(learner, job)
    with sessions.begin() as s:
        ledger.training.set_paused(s, True)
    with pytest.raises(StoppedError, match="training is paused"):
        rounds.go_on(learner, job)
    with sessions.begin() as s:
        ledger.training.set_paused(s, False)
        ledger.versions.serving(s).sequence += 1
    with pytest.raises(CancelledError, match="tempo-v0 was made to serve since the job began"):
        rounds.go_on(learner, job)
    with sessions.begin() as s:
        ledger.versions.serving(s).sequence -= 1
        ledger.jobs.finish(s, "r", "cancelled")
    with pytest.raises(CancelledError, match="was cancelled"):
        rounds.go_on(learner, job)


def test_what_compares_versions_is_never_replayed(learner: Learner) -> None:
    class Source:
        def __init__(self, says: str) -> None:
            self.says = says

        def prompts(self, examples: list[LabeledExample]) -> list[Prompt]:
            return [Prompt(example.content_hash, (1,)) for example in examples]

        def sample(self, prompts: list[Prompt], **_: object) -> list[list[Sample]]:
            return [[Sample((2,), (0.0,), self.says, "stop")] for _ in prompts]

    class Verifiers:
        def verify(self, items: list[Item]) -> list[Verdict]:
            return [Verdict(item.response == "fresh") for item in items]

    example = LabeledExample(content_hash="q", reference=["1"], verifier="exact", details={})
    sources = {"sampler": Source("fresh"), "rollouts": Source("recorded")}
    learner.world = replace(learner.world, verifiers=Verifiers(), **sources)
    for draw in (None, 7):
        _, _, [[verdict]] = learner.judged([example], "tempo-v1", n=1, draw=draw)
        assert verdict.correct is (draw is None)


@pytest.mark.parametrize("failing", [8, 9])
def test_a_verifier_that_fails_on_most_responses_teaches_nothing(
    learner: Learner, failing: int
) -> None:
    class Source:
        def prompts(self, examples: list[LabeledExample]) -> list[Prompt]:
            return [Prompt(example.content_hash, (1,)) for example in examples]

        def sample(self, prompts: list[Prompt], **_: object) -> list[list[Sample]]:
            return [[Sample((2,), (0.0,), str(i), "stop") for i in range(16)] for _ in prompts]

    class Verifiers:
        def verify(self, items: list[Item]) -> list[Verdict]:
            return [TIMED_OUT if int(i.response) < failing else Verdict(False) for i in items]

    example = LabeledExample(content_hash="q", reference=["1"], verifier="exact", details={})
    learner.world = replace(
        learner.world, verifiers=Verifiers(), sampler=Source(), rollouts=Source()
    )
    refused = pytest.raises(VerifierError, match=r"no verdict on 9 of 16 responses.*'timeout'")
    with refused if failing == 9 else nullcontext():
        learner.judged([example], "tempo-v1", n=16, draw=7)
    with refused if failing == 9 else nullcontext():
        learner.judged([example], "tempo-v0", n=16)
    _, _, [verdicts] = learner.judged([example], "tempo-v1", n=16)  # its responses are at fault
    assert not any(verdict.correct for verdict in verdicts)


@pytest.mark.parametrize("sample", [Sample((2,), (0.0,), "4", "abort"), Sample((), (), "", "stop")])
def test_where_every_response_was_lost_the_job_is_tried_again(sample: Sample) -> None:
    prompt = Prompt("q", (1,))
    with pytest.raises(SamplingError, match="tempo-v1: each of 2 responses was aborted or empty"):
        rollouts_of([prompt], [[sample, sample]], "tempo-v1", None)
    assert rollouts_of([], [], "tempo-v1", None) == []  # all questions are too long
    kept = rollouts_of([prompt], [[sample, Sample((2,), (0.0,), "4", "stop")]], "tempo-v1", None)
    assert [row.finish_reason for row in kept] == ["stop"]


def test_snapshots_have_names_of_their_own_and_the_newest_stay(learner: Learner) -> None:
    assert learner.publish_trial() == "tempo-v0"  # untrained, the base answers
    learner.progress.m_steps = 1
    names = [learner.publish_trial() for _ in range(5)]
    assert names == [f"tempo-t{number}" for number in range(1, 6)]
    assert learner.world.store.names() == names[-3:]


def test_held_out_groups_of_different_iterations_are_not_joined(learner: Learner) -> None:
    row = Rollout("q", [1], [2], [0.0], 0, "tempo-v0", "stop", True, 1.0)
    last = learner.world.settings.held_out_per_step - 1
    learner.window = [[row, row, replace(row, group=last)], [row, replace(row, group=last)]]
    groups = [r.group for r in learner._recent_held_out()]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4


@pytest.mark.parametrize(("brier", "warned"), [(0.2, 0), (0.3, 1)])
def test_a_round_that_ends_suspiciously_is_told_once(
    learner: Learner, brier: float, warned: int
) -> None:
    with learner.world.sessions.begin() as s:
        job = ledger.jobs.create(s, "j", "round", {})
        for position, figure in enumerate((0.9, 0.2, 0.25, brier)):  # the warm-up does not count
            metrics = {"e_step/brier": figure}
            s.add(
                Iteration(
                    job_id="j",
                    position=position,
                    checkpoint="",
                    question_ids=[],
                    metrics=metrics,
                    epoch=1,
                    created_at=0.0,
                )
            )
        s.expunge(job)
    rounds._watch(learner, job)
    with learner.world.sessions() as s:
        events = ledger.events.find(s, job_id="j")
    assert [e.type for e in events] == ["critic.suspect"] * warned
    assert all("rose from 0.200 to 0.300" in e.message for e in events)
