"""The figures of README.md and of the page of results: made of rows, and of nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tempo_lab import readme
from tempo_lab.readme import FIGURE, FIGURES, PAGES, README, RESULTS, rewritten
from tempo_lab.rows import read
from tempo_lab.study.arms import ARMS, SEEDS


def copied(folder: Path) -> Path:
    """Return a folder with the rows that are committed."""
    for path in RESULTS.glob("*.jsonl"):
        (folder / path.name).write_text(path.read_text())
    return folder


def test_the_figures_of_each_page_are_those_of_the_rows() -> None:
    pages = [path.read_text() for path in PAGES]
    assert {name for page in pages for name, _ in FIGURE.findall(page)} == FIGURES.keys()
    for page in pages:
        assert rewritten(page, newest=False) == page, "make figures"


@pytest.mark.parametrize("name", FIGURES)
def test_a_changed_figure_is_found(name: str) -> None:
    pages = [path.read_text() for path in PAGES]
    page = next(page for page in pages if f"<!--{name}-->" in page)
    text = next(text for own, text in FIGURE.findall(page) if own == name)
    digits = [at for at, letter in enumerate(text) if letter.isdigit()]
    at = digits[-1] if name == "study" else digits[0]
    changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    assert rewritten(page.replace(text, changed), newest=False) == page


def test_a_stranger_s_demo_makes_no_figure_false_and_the_command_takes_it(tmp_path: Path) -> None:
    results = copied(tmp_path)
    row = read(results / "demo.jsonl")[0]
    scores = {**row["scores"], "adapted": {"base": dict.fromkeys(("users", "greedy"), 0.1)}}
    scores["adapted"]["served"] = dict.fromkeys(("users", "greedy"), 0.9)
    again = {"seed": 0, "flip_reward": False, "rounds": 3, "iterations": 30, "minutes": 12.4}
    others = [
        again | {"scores": scores, "commit": row["commit"]},
        again | {"scores": scores, "commit": "1234567"},
        again | {"scores": row["scores"], "commit": "7654321", "seed": 1},
        again | {"scores": row["scores"], "commit": "7654321+"},
    ]
    with (results / "demo.jsonl").open("a") as file:
        file.writelines(json.dumps(other) + "\n" for other in others)
    page = README.read_text()
    assert rewritten(page, results=results, newest=False) == page
    text = rewritten(page, results=results)
    assert "base .100, served .900; greedy .100, .900 (1234567)\n    #   12 minutes\n" in text


def study_row(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    def line(value: float, pass8: float) -> dict[str, Any]:
        figures = {metric: [value] for metric in ("greedy", "users", "avg")}
        return {"unseen": figures | {"pass": [pass8]}}

    lines = [line(0.3, 0.9), line(accuracy, 0.95)]
    run = {"name": arm, "seed": seed, "iterations": readme.ITERATIONS}
    return {"run": run, "lines": lines, "commit": "1234567"}


def test_the_table_is_that_of_the_study_as_soon_as_all_of_its_rows_are_there(
    tmp_path: Path,
) -> None:
    results = copied(tmp_path)
    rows = [
        study_row(arm, seed, 0.4 + seed / 1000 + 0.1 * (arm == "tempo-default"))
        for arm in ARMS
        for seed in SEEDS
    ]
    page = README.read_text()
    path = results / "countdown-bare.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    assert rewritten(page, results=results, newest=False) == page
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = rewritten(page, results=results)
    # The standard error is .245 / √8 points, and t is 2.36 at .975 with 7 degrees of freedom.
    assert "| **TEMPO** | .513 | .513 | +21.4 [+21.1, +21.6] | .513 | .950 |" in text
    assert "| base | .300 | .300 | | .300 | .900 |" in text
    assert "does not fall (.900 to .950 at 1234567)" in text
