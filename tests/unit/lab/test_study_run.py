"""A run of a study: reproducible, resumable, and blind to the hidden answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_data
import torch

from tempo_lab.study import run as study_run
from tempo_lab.study.lab import Lab
from tempo_lab.study.measurement import by_question, measure
from tempo_lab.study.methods import METHODS, tempo, warm_up
from tempo_lab.study.questions import Data
from tempo_lab.study.run import run
from tempo_lab.tasks import equation
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_storage.errors import InvalidInputError
from tempo_trainer.algorithm import em
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.em import em_step
from tempo_trainer.learning import checkpoint

BLIND = [method for method in METHODS if method != "oracle"]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "VerifierPool", study_data.Verifiers)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines without their seconds, which differ from run to run."""
    every = [json.loads(text) for text in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in every]


def training_figures(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of training in each line, without those of measurements."""
    return [{k: v for k, v in line.items() if "_step/" in k} for line in every]


def weights(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    """Return the weights in the only saved state of a run."""
    states = folder / "state" / stem
    (name,) = (path.name for path in states.iterdir())
    tensors: dict[str, torch.Tensor] = checkpoint.load(states, name)["networks"]["weights"]
    return tensors


class StoppedError(Exception):
    """The interruption of a run."""


def interrupt_at(last: int) -> Any:
    def report(iteration: int) -> None:
        if iteration == last:
            raise StoppedError

    return report


@pytest.mark.parametrize("method", ["tempo", "ttrl"])
def test_a_resumed_run_is_the_uninterrupted_one(method: str, tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, method=method)
    whole = lines(run(spec, tmp_path / "whole"))
    for last in (1, 3):  # before anything was saved, and one iteration after a save
        with pytest.raises(StoppedError):
            run(spec, tmp_path / "cut", interrupt_at(last))
    assert lines(run(spec, tmp_path / "cut")) == whole
    assert [line["iteration"] for line in whole] == list(range(6))
    assert all("avg" in sets["adapted"] for sets in whole[-1]["scaled"].values())
    assert "scaled" not in whole[-2]
    a, b = (weights(tmp_path / folder, spec.stem) for folder in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_resumed_run_adds_to_the_seconds_of_the_interrupted_one(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, method="ttrl")
    with pytest.raises(StoppedError):
        run(spec, tmp_path, interrupt_at(4))
    path = run(spec, tmp_path)
    seconds = [json.loads(text)["seconds"] for text in path.read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, method="random", iterations=2)
    path = run(spec, tmp_path)
    before = path.read_text()
    reports: list[int] = []
    run(spec, tmp_path, reports.append)
    assert path.read_text() == before
    assert reports == [2]


def test_the_seed_decides_the_run(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, method="ttrl", iterations=2)
    first, again, other = (
        training_figures(lines(run(replace(spec, seed=seed), tmp_path / folder)))
        for seed, folder in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert first == again
    assert first != other


def test_all_methods_begin_at_the_same_base(tmp_path: Path) -> None:
    firsts = [
        lines(run(study_data.spec(tmp_path, method=m, iterations=1), tmp_path))[0]
        for m in ("tempo", "supervised")
    ]
    assert firsts[0]["adapted"] == firsts[1]["adapted"]
    assert "critic" in firsts[0]
    assert "critic" not in firsts[1]


@pytest.mark.parametrize("changed", [{}, {"order": "reference_code"}, {"labeled_in_policy": False}])
def test_tempo_is_the_product_s_own_iteration(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(em, "refusal_reason", lambda *_: "")  # a base this small is seldom right
    spec = study_data.spec(tmp_path, settings=study_data.SETTINGS | changed)
    data = Data.load(spec.labeled, spec.unlabeled)
    ours, product = (Lab(spec, data, study_data.Verifiers(["numeric"])) for _ in range(2))
    s = product.settings
    before = product.networks.state_dict()["weights"]
    for _ in range(2):  # the second one replays the first
        tempo(ours)
        labeled = product.labeled(s.labeled_per_step)
        em_step(
            product.networks,
            labeled=[labeled, *product.replay],
            held_out=product.held_out_window(),
            unlabeled=product.batch(product.sample_next("unlabeled", s.unlabeled_per_step)),
            settings=s,
        )
        product.replay.insert(0, labeled)
    a, b = (lab.networks.state_dict()["weights"] for lab in (ours, product))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], before[name]) for name in a if ".policy." in name)


def labels(iteration: int, *, mixed: int) -> Batch:
    """Return 12 draws of an iteration, as many of them mixed."""
    rows = [
        Rollout(f"{iteration}:{draw}", [1], [2], [-1.0], draw, "stop", True, outcome)
        for draw in range(12)
        for outcome in (1.0, -1.0 if draw < mixed else 1.0)
    ]
    return Batch.collate(rows, 0)


def test_held_out_rollouts_of_older_iterations_count_until_24_draws_are_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study_data.spec(tmp_path)
    lab = Lab(spec, Data.load(spec.labeled, spec.unlabeled), study_data.Verifiers(["numeric"]))
    sizes = []
    for iteration, mixed in enumerate([12, 12, 3, 12, 12, 0]):
        fresh = labels(iteration, mixed=mixed)
        monkeypatch.setattr(lab, "labeled", lambda *_, batch=fresh, **__: batch)
        sizes.append(len(lab.held_out_window().group.unique()) // 12)
    assert sizes == [1, 2, 3, 3, 2, 3]


def test_the_warm_up_leaves_held_out_rollouts_to_the_first_iteration(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path)
    lab = Lab(spec, Data.load(spec.labeled, spec.unlabeled), study_data.Verifiers(["numeric"]))
    warm_up(lab)
    assert [len(batch) for batch in lab.window] == [4 * 2 * 4]  # 4 times 2 questions, 4 responses


def test_all_methods_sample_the_same_number_of_responses(tmp_path: Path) -> None:
    sampled = {}
    for method in METHODS.keys() - {"fine-tuning"}:  # it samples none
        spec = study_data.spec(tmp_path, method=method, iterations=1)
        first, last = (line["sampled"] for line in lines(run(spec, tmp_path)))
        sampled[method] = last - first
    assert set(sampled.values()) == {40}  # 4 labeled, 4 unlabeled, 2 held out, 4 responses each


@pytest.mark.parametrize("method", [*BLIND, "oracle"])
def test_hidden_answers_change_only_the_oracle(method: str, tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, method=method, iterations=2, samples=1)
    shown = run(spec, tmp_path / "shown")
    rows = [json.loads(text) for text in Path(spec.unlabeled).read_text().splitlines()]
    for row in rows:
        row["reference_answer"] = str(int(row["reference_answer"]) % 16 + 1)
    hide = {"wrong": rows}
    if method == "tempo":
        hide["none"] = [{k: v for k, v in row.items() if "answer" not in k} for row in rows]
    for name, others in hide.items():
        other = replace(spec, unlabeled=study_data.write(tmp_path / f"{name}.jsonl", others))
        alike = training_figures(lines(run(other, tmp_path / name))) == training_figures(
            lines(shown)
        )
        a, b = (weights(tmp_path / folder, spec.stem) for folder in ("shown", name))
        assert alike is (method != "oracle")
        assert all(torch.equal(a[key], b[key]) for key in a) is (method != "oracle")


def test_the_oracle_needs_answers(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, method="oracle")
    bare = study_data.write(tmp_path / "bare.jsonl", [{"question": "x + 1 + 1 = 4 ?"}])
    with pytest.raises(InvalidInputError, match="the oracle needs an answer"):
        run(replace(spec, unlabeled=bare), tmp_path)


def test_without_hidden_answers_the_held_out_questions_measure(tmp_path: Path) -> None:
    rows = [equation.labeled_row(e) for e in equation.draw(1, 30)]
    labeled = study_data.write(tmp_path / "labeled.jsonl", rows)
    bare = study_data.write(tmp_path / "bare.jsonl", [{"question": "what?"}, rows[0]])
    data = Data.load(labeled, bare)
    assert list(data.measured) == ["held_out"]
    assert len(data.unlabeled.questions) == 1  # the other is labeled
    assert len(data.train.questions) + len(data.held_out.questions) == 30
    assert not data.train.answers.keys() & data.held_out.answers.keys()


def test_unseen_questions_are_in_no_other_file_and_need_all_their_answers(
    tmp_path: Path,
) -> None:
    rows = [equation.labeled_row(e) for e in equation.draw(1, 40)]
    parts = {"labeled": rows[:30], "asked": rows[30:35], "unseen": rows[29:]}
    files = [study_data.write(tmp_path / name, part) for name, part in parts.items()]
    data = Data.load(*files)
    assert {name: len(s.questions) for name, s in data.measured.items()} == {
        "adapted": 5,
        "unseen": 5,
    }
    study_data.write(tmp_path / "asked", [*parts["asked"], {"question": "what?"}])
    with pytest.raises(InvalidInputError, match="5 answers to 6 questions of its own; answer all"):
        Data.load(*files)
    study_data.write(tmp_path / "unseen", parts["labeled"])
    with pytest.raises(InvalidInputError, match="unseen: 0 answers to 0 questions of its own"):
        Data.load(files[0], study_data.write(tmp_path / "bare", [{"question": "?"}]), files[2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1"),
        ('{"answer": "4"}', "line 1: messages: no question \\(fields: answer\\); add 'question'"),
        ("[]", "0 answers to 0 questions"),
        ("", "0 answers to 0 questions"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        Data.load(str(path), str(path))


def test_each_question_has_its_own_figures() -> None:
    outcomes = [[1.0, -1.0, -1.0, -1.0], [-1.0] * 4]
    figures = by_question(outcomes, [["7", "3", "3", "4"], ["1", "1", "", ""]])
    assert figures["avg"] == [0.25, 0.0]
    assert figures["pass"] == [1.0, 0.0]
    assert figures["maj"] == [0.0, 0.0]
    assert figures["entropy"] == [1.0397, 0.6931]  # 2, 1, 1 of four; two and two


def test_pass_at_8_is_estimated_without_bias_from_16_responses() -> None:
    outcomes = [[1.0] * right + [-1.0] * (16 - right) for right in (0, 1, 2, 8, 9)]
    figures = by_question(outcomes, [["a"] * 16] * 5)
    # 1 − C(16 − c, 8) / C(16, 8)
    assert figures["pass"] == [0.0, 0.5, 0.7667, 0.9999, 1.0]


@pytest.mark.parametrize(
    ("users", "counts"),
    [
        (Decoding(0.6, 0.9), {PLAIN: 16, GREEDY: 1, Decoding(0.6, 0.9): 16}),
        (PLAIN, {PLAIN: 16, GREEDY: 1}),
        (GREEDY, {PLAIN: 16, GREEDY: 1}),
    ],
)
def test_a_measurement_is_greedy_at_the_users_sampling_and_at_temperature_1(
    users: Decoding, counts: dict[Decoding, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study_data.spec(tmp_path)
    data = Data.load(spec.labeled, spec.unlabeled)
    lab = Lab(spec, data, study_data.Verifiers(["numeric"]))
    drawn: dict[Decoding, int] = {}
    sample = lab.sampler.sample

    def record(prompts: Any, *, n: int, seed: int, decoding: Decoding) -> Any:
        drawn[decoding] = n
        return sample(prompts, n=n, seed=seed, decoding=decoding)

    monkeypatch.setattr(lab.sampler, "sample", record)
    figures = measure(lab, data.measured, samples=16, users=users, critic=False)["adapted"]
    assert drawn == counts
    assert set(figures["greedy"]) <= {0.0, 1.0}
    assert ("users" in figures) is (len(counts) == 3)
    assert all(len(row) == len(data.unlabeled.questions) for row in figures.values())
