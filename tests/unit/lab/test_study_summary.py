"""The summary: paired intervals, equal time, and a folder that holds one study only."""

import builtins
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from tempo_lab.study import plan
from tempo_lab.study.lab import Spec
from tempo_lab.study.summary import Run, difference, load, markdown, summarise
from tempo_storage.errors import ConflictError
from tempo_trainer.algorithm.metrics import paired_bootstrap

QUESTIONS = 40
SPEC = Spec("tempo", 0, "model", "labeled", "unlabeled", iterations=4, samples=8)


def write(
    folder: Path, spec: Spec, shares: list[float], seconds: list[float], prefix: str = ""
) -> Path:
    """Write a run with measurements at iterations 0, 2 and 4; question i has shares + i / 1000."""
    path = folder / "runs" / f"{spec.stem}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for iteration in range(5):
        line: dict[str, Any] = {"iteration": iteration, "seconds": seconds[0] * iteration}
        if iteration % 2 == 0:
            avg = [shares[iteration // 2] + i / 1000 for i in range(QUESTIONS)]
            line["adapted"] = {name: avg for name in ("avg", "pass", "maj", "entropy")}
            if spec.method == "tempo":
                line["critic"] = {"auroc": 0.9, "ece": 0.1, "advantage_cosine": 0.5}
        elif spec.method == "tempo":
            line["refusal"] = "unfit"
        lines.append(line)
    lines[0]["questions"] = {"adapted": [f"{prefix}{i}" for i in range(QUESTIONS)]}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def specs(tmp_path: Path) -> list[Spec]:
    """Return two seeds of two arms: tempo is twice as slow, and better by .1 and by .3."""
    specs = []
    for seed, better in ((0, 0.1), (1, 0.3)):
        tempo = replace(SPEC, seed=seed)
        other = replace(SPEC, method="ttrl", seed=seed)
        write(tmp_path, tempo, [0.3, 0.4 + better, 0.5 + better], [2.0], prefix=f"{seed}:")
        write(tmp_path, other, [0.3, 0.4, 0.5], [1.0], prefix=f"{seed}:")
        specs += [tempo, other]
    return specs


def arms(folder: Path, specs: list[Spec]) -> Any:
    return load((s.arm, s.seed, folder / "runs" / f"{s.stem}.jsonl") for s in specs)


def test_differences_are_paired_by_question_and_seed(tmp_path: Path, specs: list[Spec]) -> None:
    runs = arms(tmp_path, specs)
    end = ("iteration", 4.0)
    paired = difference(runs["tempo"], runs["ttrl"], "adapted", "avg", end, end)
    expected = paired_bootstrap(np.repeat([0.1, 0.3], QUESTIONS), tail=0.025)
    assert paired["mean"] == pytest.approx(0.2)
    assert paired["low"] == pytest.approx(expected.low, abs=1e-4)
    assert paired["high"] == pytest.approx(expected.high, abs=1e-4)
    assert 0.17 < paired["low"] < 0.2 < paired["high"] < 0.23  # 0.1 / √80 each side, times 1.96
    assert paired["seeds"] == {"0": 0.1, "1": 0.3}


def test_a_question_that_seeds_share_counts_once(tmp_path: Path) -> None:
    specs = []
    for seed, better in ((0, 0.1), (1, 0.3)):
        for method, gain in (("tempo", better), ("ttrl", 0.0)):
            spec = replace(SPEC, method=method, seed=seed)
            write(tmp_path, spec, [0.3, 0.3, 0.3 + gain], [1.0])
            specs.append(spec)
    runs = arms(tmp_path, specs)
    end = ("iteration", 4.0)
    paired = difference(runs["tempo"], runs["ttrl"], "adapted", "avg", end, end)
    assert (paired["low"], paired["high"]) == pytest.approx((0.2, 0.2), abs=1e-4)


def test_equal_time_reads_the_slow_arm_where_the_fast_one_ended(
    tmp_path: Path, specs: list[Spec]
) -> None:
    tables = summarise(arms(tmp_path, specs), samples=8)
    assert list(tables) == [
        "adapted: after 4 iterations of training",
        "adapted: after 4 seconds of training",
    ]
    base, tempo, ttrl = tables["adapted: after 4 seconds of training"]
    middle = QUESTIONS / 2000 - 0.0005  # the mean of i / 1000
    assert base["avg@8"] == pytest.approx(0.3 + middle)
    assert tempo["avg@8"] == pytest.approx(0.6 + middle)  # its iteration 2, both seeds' mean
    assert ttrl["avg@8"] == pytest.approx(0.5 + middle)


def test_scaled_adapters_have_a_table_of_their_own(tmp_path: Path, specs: list[Spec]) -> None:
    for spec in specs:
        path = tmp_path / "runs" / f"{spec.stem}.jsonl"
        *before, last = map(json.loads, path.read_text().splitlines())
        half = {m: [0.45] * QUESTIONS for m in ("avg", "pass", "maj", "entropy")}
        last["scaled"] = {"0.5": {"adapted": half}}
        path.write_text("".join(json.dumps(line) + "\n" for line in (*before, last)))
    tables = summarise(arms(tmp_path, specs), samples=8)
    half, _ = tables["adapted: after 4 iterations, adapters scaled"]
    assert half["arm"] == "tempo × 0.5"
    assert half["avg@8"] == pytest.approx(0.45)
    assert half["gain, pass@8"]["mean"] == pytest.approx(0.15 - QUESTIONS / 2000 + 0.0005)
    tempo = tables["adapted: after 4 iterations of training"][1]
    assert tempo["avg@8"] == pytest.approx(0.7 + QUESTIONS / 2000 - 0.0005)  # unscaled


def test_between_measurements_figures_lie_on_a_line(tmp_path: Path) -> None:
    run = Run(write(tmp_path, SPEC, [0.0, 0.4, 0.6], [1.0]))
    assert run.at("adapted", "avg", "iteration", 1.0)[0] == pytest.approx(0.2)
    assert run.at("adapted", "avg", "seconds", 3.0)[0] == pytest.approx(0.5)
    assert run.at("adapted", "avg", "seconds", 9.0)[0] == pytest.approx(0.6)


def test_the_table_has_intervals_and_the_critic(tmp_path: Path, specs: list[Spec]) -> None:
    text = markdown(summarise(arms(tmp_path, specs), samples=8), title="a study")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    header, _, base, tempo, ttrl = ([c.strip("| ") for c in row] for row in rows[:5])
    cell = dict(zip(header, ttrl, strict=True))
    assert cell["tempo − arm, avg@8"].startswith("+20.0 [+1")
    assert cell["tempo − arm, avg@8"].endswith("] 2/2")
    assert cell["gain, avg@8"] == cell["gain, pass@8"] == "+20.0 [+20.0, +20.0] 2/2"
    assert cell["auroc"] == ""
    first = dict(zip(header, tempo, strict=True))
    assert (first["auroc"], first["refused"], first["peak"]) == ("0.900", "2", "0.720")
    assert first["tempo − arm, avg@8"] == ""
    assert base[0] == "base"
    assert float(base[1]) == pytest.approx(0.3195, abs=0.001)


def test_without_matplotlib_there_are_tables_and_no_curves(
    tmp_path: Path, specs: list[Spec], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name, name=name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    text = plan.write(tmp_path, specs, title="a study")
    assert (tmp_path / "summary.md").read_text() == text
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 2
    assert "pip install 'vllm-tempo[study]'" in capsys.readouterr().out


def test_a_run_that_fails_leaves_the_tables_of_other_folders(
    tmp_path: Path,
    specs: list[Spec],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plan, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(plan, "_events", SimpleQueue())
    failing = [replace(SPEC, labeled=str(tmp_path / "missing"))]
    assert plan.study({tmp_path / "failing": failing, tmp_path: specs}) == 1
    assert "failing tempo-0 failed: " in capsys.readouterr().out
    assert (tmp_path / "summary.md").is_file()
    assert not (tmp_path / "failing" / "summary.md").exists()


def test_the_folder_of_a_study_with_other_runs_is_refused(
    tmp_path: Path, specs: list[Spec]
) -> None:
    plan._configure(tmp_path, specs)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["settings"]["group_size"] == 8
    assert "database_url" not in written["settings"]  # it may hold a password
    assert {"torch", "transformers", "peft", "python"} <= written["versions"].keys()
    plan._configure(tmp_path, specs)
    with pytest.raises(ConflictError, match="another study; choose another --out"):
        plan._configure(tmp_path, [replace(spec, samples=4) for spec in specs])


def test_the_folder_of_a_study_of_other_questions_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labeled.jsonl"
    file.write_text("one\n")
    spec = replace(SPEC, labeled=str(file))
    plan._configure(tmp_path / "study", [spec])
    plan._configure(tmp_path / "study", [spec])
    file.write_text("another\n")
    with pytest.raises(ConflictError, match="another study"):
        plan._configure(tmp_path / "study", [spec])


def test_the_folder_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    plan._configure(tmp_path, [replace(SPEC, name="tempo-default")])
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    old_name = [run | {"name": "mixed"} for run in config["runs"]]
    old_settings = config["settings"] | {"value_clip": 0.0}
    for old in ({"runs": old_name}, {"settings": old_settings}):
        path.write_text(json.dumps(config | old))
        with pytest.raises(ConflictError, match="another study"):
            plan._configure(tmp_path, [replace(SPEC, name="tempo-default")])
