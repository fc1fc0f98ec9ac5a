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
from tempo_lab.study.kept import keep, restore
from tempo_lab.study.lab import Spec
from tempo_lab.study.summary import Run, Table, caption, difference, load, markdown, summarise
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_storage.errors import ConflictError

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
        line["sampled"] = 0
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


def tables(runs: Any, users: Decoding = PLAIN) -> dict[str, Table]:
    return summarise(runs, samples=8, users=users)


def arms(folder: Path, specs: list[Spec]) -> Any:
    return load((s.arm, s.seed, folder / "runs" / f"{s.stem}.jsonl") for s in specs)


END = ("iteration", 4.0)


def test_a_difference_is_paired_and_its_interval_has_the_seed_as_the_unit(
    tmp_path: Path, specs: list[Spec]
) -> None:
    runs = arms(tmp_path, specs)
    paired = difference(runs["tempo"], runs["ttrl"], "adapted", "avg", END, END)
    reach = 12.7062 * 0.1  # t at .975 with one degree of freedom; σ / √2 of .1 and .3
    assert paired["mean"] == pytest.approx(0.2)
    assert (paired["low"], paired["high"]) == pytest.approx((0.2 - reach, 0.2 + reach), abs=1e-4)
    assert paired["seeds"] == {"0": 0.1, "1": 0.3}
    assert paired["unit"] == "seed"


def test_more_questions_do_not_narrow_the_interval_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervals = []
    for questions in (20, 400):
        monkeypatch.setitem(globals(), "QUESTIONS", questions)
        specs = []
        for seed, better in ((0, 0.1), (1, 0.3), (2, 0.2)):
            for method, gain in (("tempo", better), ("ttrl", 0.0)):
                specs.append(replace(SPEC, method=method, seed=seed))
                write(tmp_path, specs[-1], [0.3, 0.3, 0.3 + gain], [1.0], prefix=f"{seed}:")
        runs = arms(tmp_path, specs)
        intervals.append(difference(runs["tempo"], runs["ttrl"], "adapted", "avg", END, END))
    assert intervals[0] == intervals[1]
    assert intervals[0]["high"] == pytest.approx(0.2 + 4.3027 * 0.1 / np.sqrt(3), abs=1e-4)


def test_with_one_seed_the_question_is_the_unit_and_the_cell_says_so(
    tmp_path: Path, specs: list[Spec]
) -> None:
    runs = arms(tmp_path, specs[:2])
    gain = difference(runs["tempo"], runs["tempo"], "adapted", "avg", END, ("iteration", 0.0))
    assert gain["unit"] == "question"
    assert np.isnan(gain["low"])  # all questions gained the same, which tells no spread
    path = tmp_path / "runs" / f"{specs[0].stem}.jsonl"
    *before, last = map(json.loads, path.read_text().splitlines())
    last["adapted"]["avg"] = [0.3 + i / 1000 + (i % 2) for i in range(QUESTIONS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in (*before, last)))
    runs = arms(tmp_path, specs[:2])
    gain = difference(runs["tempo"], runs["tempo"], "adapted", "avg", END, ("iteration", 0.0))
    reach = 2.0227 * np.sqrt(QUESTIONS / (QUESTIONS - 1) / 4 / QUESTIONS)  # σ of half 0, half 1
    assert (gain["mean"], gain["high"]) == pytest.approx((0.5, 0.5 + reach), abs=1e-4)
    assert "+50.0 [+33.8, +66.2] 1/1 by question" in markdown(tables(runs), title="")


@pytest.mark.parametrize(
    ("seeds", "prefixes", "unit", "covered", "not_covered"),
    [
        ((0,), ("0:",), "question", "cover other questions", "do not cover other runs"),
        ((0, 1), ("", ""), "seed", "cover other runs", "do not cover other questions"),
        ((0, 1), ("0:", "1:"), "seed", "cover other runs and other questions", ""),
    ],
)
def test_a_caption_names_the_unit_and_what_the_intervals_cover(
    seeds: tuple[int, ...],
    prefixes: tuple[str, ...],
    unit: str,
    covered: str,
    not_covered: str,
    tmp_path: Path,
) -> None:
    specs = [replace(SPEC, seed=seed) for seed in seeds]
    for spec, prefix in zip(specs, prefixes, strict=True):
        write(tmp_path, spec, [0.3, 0.4, 0.5], [1.0], prefix=prefix)
    text = caption(arms(tmp_path, specs), "adapted", users=PLAIN)
    assert f"The unit of the intervals is the {unit}" in text
    assert covered in text
    assert not_covered in text
    assert markdown(tables(arms(tmp_path, specs)), title="").count(text) == 2  # of both tables


@pytest.mark.parametrize(
    ("users", "sentence"),
    [
        (PLAIN, "Users sample at temperature 1, as in the column `avg`."),
        (GREEDY, "Users sample greedily, as in the column `greedy`."),
        (Decoding(0.6, 0.95, 20), "the users' sampling: temperature 0.6, top-p 0.95, top-k 20."),
        (Decoding(0.6), "the users' sampling: temperature 0.6, top-p 1, top-k off."),
    ],
)
def test_a_caption_names_the_users_sampling(
    users: Decoding, sentence: str, tmp_path: Path, specs: list[Spec]
) -> None:
    assert sentence in caption(arms(tmp_path, specs), "adapted", users=users)


def test_runs_of_an_earlier_version_have_blanks_for_figures_that_they_lack(
    tmp_path: Path, specs: list[Spec]
) -> None:
    runs = arms(tmp_path, specs)
    assert "greedy" not in markdown(tables(runs), title="").split("\n\n")[3]
    for seed in (0, 1):  # only the second arm is measured anew
        path = tmp_path / "runs" / f"ttrl-{seed}.jsonl"
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        for line in lines[::2]:
            line["adapted"]["greedy"] = [0.25] * QUESTIONS
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = tables(arms(tmp_path, specs))["adapted: after 4 iterations of training"]
    text = markdown({"": table}, title="")
    header, _, _, old, new = [row.split(" | ") for row in text.splitlines() if "|" in row]
    cells = dict(zip(header, old, strict=True)), dict(zip(header, new, strict=True))
    assert [cell["greedy"] for cell in cells] == ["", "0.250"]
    assert [cell["gain, greedy"] for cell in cells] == ["", "+0.0 0/2"]
    assert cells[1]["tempo − arm, greedy"] == ""


def test_equal_time_reads_the_slow_arm_where_the_fast_one_ended(
    tmp_path: Path, specs: list[Spec]
) -> None:
    summary = tables(arms(tmp_path, specs))
    assert list(summary) == [
        "adapted: after 4 iterations of training",
        "adapted: after 4 seconds of training",
    ]
    base, tempo, ttrl = summary["adapted: after 4 seconds of training"].rows
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
    summary = tables(arms(tmp_path, specs))
    half, _ = summary["adapted: after 4 iterations, adapters scaled"].rows
    assert half["arm"] == "tempo × 0.5"
    assert half["avg@8"] == pytest.approx(0.45)
    assert half["gain, pass@8"]["mean"] == pytest.approx(0.15 - QUESTIONS / 2000 + 0.0005)
    tempo = summary["adapted: after 4 iterations of training"].rows[1]
    assert tempo["avg@8"] == pytest.approx(0.7 + QUESTIONS / 2000 - 0.0005)  # unscaled


def test_between_measurements_figures_lie_on_a_line(tmp_path: Path) -> None:
    run = Run(write(tmp_path, SPEC, [0.0, 0.4, 0.6], [1.0]))
    assert run.at("adapted", "avg", "iteration", 1.0)[0] == pytest.approx(0.2)
    assert run.at("adapted", "avg", "seconds", 3.0)[0] == pytest.approx(0.5)
    assert run.at("adapted", "avg", "seconds", 9.0)[0] == pytest.approx(0.6)


def test_the_table_has_intervals_and_the_critic(tmp_path: Path, specs: list[Spec]) -> None:
    text = markdown(tables(arms(tmp_path, specs)), title="a study")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    header, _, base, tempo, ttrl = ([c.strip("| ") for c in row] for row in rows[:5])
    cell = dict(zip(header, ttrl, strict=True))
    assert cell["tempo − arm, avg@8"] == "+20.0 [-107.1, +147.1] 2/2"
    assert cell["gain, avg@8"] == cell["gain, pass@8"] == "+20.0 2/2"
    assert cell["auroc"] == ""
    first = dict(zip(header, tempo, strict=True))
    assert (first["auroc"], first["refused"], first["peak"]) == ("0.900", "2", "0.720")
    assert first["tempo − arm, avg@8"] == ""
    assert base[0] == "base"
    assert float(base[1]) == pytest.approx(0.3195, abs=0.001)


def test_a_run_that_is_kept_as_a_row_gives_the_same_table(
    tmp_path: Path, specs: list[Spec]
) -> None:
    results = tmp_path / "results" / "study.jsonl"
    assert keep(results, specs, tmp_path) == 4
    assert keep(results, specs, tmp_path) == 0  # each once
    later = tmp_path / "later"
    moved = [replace(spec, labeled="elsewhere") for spec in specs]
    assert restore(results, moved, later) == 4
    assert restore(results, moved, later) == 0
    before = markdown(tables(arms(tmp_path, specs)), title="a study")
    assert markdown(tables(arms(later, moved)), title="a study") == before
    assert "ttrl" in before


def test_only_a_finished_run_with_the_same_settings_is_restored(
    tmp_path: Path, specs: list[Spec]
) -> None:
    results = tmp_path / "results" / "study.jsonl"
    longer = [replace(spec, iterations=8) for spec in specs]
    assert keep(results, longer, tmp_path) == 0
    keep(results, specs, tmp_path)
    others = [replace(spec, settings={"kl_coefficient": 0.0}) for spec in specs]
    assert restore(results, others, tmp_path / "later") == 0


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
