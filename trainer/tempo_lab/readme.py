"""Write the figures of README.md and of the page of results from the rows of finished runs.

    python -m tempo_lab.readme      # `make figures`

A figure stands between two comments, such as <!--demo--> and <!--/demo-->. A test reads the commit
that a figure names, and compares the figure with the rows of that commit. So more rows, such as
those of another run of the demo, make no figure false. The command takes the newest rows.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tempo_lab.learn.results import examples, grouped, table
from tempo_lab.rows import ROOT, Row, read
from tempo_lab.study.arms import ARMS, BARE, DEFAULT, SEEDS
from tempo_trainer.algorithm.intervals import t_interval

README = ROOT.parent / "README.md"
RESULTS_PAGE = ROOT / "docs" / "results.md"
PAGES = (README, RESULTS_PAGE)
RESULTS = ROOT / "tempo_lab" / "results"
SIMULATION = ROOT / "docs" / "figures" / "simulation"
FIGURE = re.compile(r"<!--(\w+)-->(.*?)<!--/\1-->", re.DOTALL)
COMMIT = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7}\b")
COUNTS = {2: "two", 3: "three", 5: "five", 8: "eight"}
ITERATIONS = 200
NAMES = {
    "base": "base",
    DEFAULT: "**TEMPO**",
    "tempo-paper": "TEMPO as in the paper",
    "frozen": "critic frozen after warm-up",
    "ttrl": "majority vote (TTRL)",
    "empo": "share of the answer (EMPO)",
    "supervised": "labeled questions only",
    "fine-tuning": "fine-tuning on the labels",
    "one-label": "one labeled question",
    "format": "form of the answer",
    "random": "random reward",
}
"""The methods as the README calls them."""


def rewritten(page: str, *, results: Path = RESULTS, newest: bool = True) -> str:
    """Return the page with each figure as the rows have it.

    Without `newest` a figure is made of the rows of the commits that it names.
    """

    def replaced(match: re.Match[str]) -> str:
        name, text = match.groups()
        commits = [] if newest else COMMIT.findall(text)
        return f"<!--{name}-->{FIGURES[name](results, commits)}<!--/{name}-->"

    return FIGURE.sub(replaced, page)


def demo(results: Path, commits: Sequence[str]) -> str:
    """Return the lines of the quick start; the first run of seed 0 at a commit counts."""
    rows = [
        row
        for row in read(results / "demo.jsonl")
        if (row["seed"], row["flip_reward"], row["rounds"], row["iterations"]) == (0, False, 3, 30)
    ]
    row = _first(rows, commits)
    base, served = (row["scores"]["adapted"][side] for side in ("base", "served"))
    gigabytes = f"{row['gigabytes']:g} GB" if "gigabytes" in row else ""
    parts = [f"{row['minutes']:.0f} minutes", gigabytes, row.get("conditions", "")]
    return f"""
    make demo                        # the whole loop on a toy model; installs everything first
    # → accuracy as users sample: base {_share(base["users"])}, served {_share(served["users"])};\
 greedy {_share(base["greedy"])}, {_share(served["greedy"])} ({row["commit"]})
    #   {", ".join(filter(None, parts))}
"""


def learn(results: Path, commits: Sequence[str]) -> str:
    """Return the change on unseen questions of each set of the real model."""
    parts = []
    for rows in grouped(_learned(results, commits)).values():
        base, served = (
            _share(np.mean([row[version]["unseen"]["users"] for row in rows]))
            for version in ("base", "served")
        )
        minutes = max(sum(row["minutes"].values()) for row in rows)
        seeds = f"{COUNTS[len(rows)]} seeds" if len(rows) > 1 else f"seed {rows[0]['seed']}"
        about = f"{seeds}, {minutes:.0f} minutes, {_commits(rows)}"
        parts.append(f"{base} to {served} (`{rows[0]['set']}`, {about})")
    return ";\n".join(parts)


def learned(results: Path, commits: Sequence[str]) -> str:
    """Return the table of the real model, and examples of its answers."""
    rows = _learned(results, commits)
    return f" At {_commits(rows)}:\n\n{table(rows)}\n\n```text\n{examples(rows)}\n```\n"


def _learned(results: Path, commits: Sequence[str]) -> list[Row]:
    """Return the rows of the commits; without commits those of every clean one."""
    rows = read(results / "learn.jsonl")
    clean = [row for row in rows if not row["commit"].endswith("+")]
    return [row for row in clean if row["commit"] in commits] or clean


def gate(results: Path, commits: Sequence[str]) -> str:
    """Return how often 50 tests promote a useless candidate."""
    rows = read(SIMULATION / "promotions.jsonl")
    most = max(row["useless, once in 50 tests"] for row in rows)
    return f"at most {100 * most:.1f} % of cases ({_commits(rows)})"


def study(results: Path, commits: Sequence[str]) -> str:
    """Return the table of the methods: that of the whole study if all of its rows are there."""
    rows = _whole_study(results)
    return _seed_table(rows) if rows else _earlier_table(results)


def pass8(results: Path, commits: Sequence[str]) -> str:
    """Return how pass@8 on unseen questions changes from the base to the default."""
    if rows := _whole_study(results):
        own = [row["lines"] for row in rows if row["run"]["name"] == DEFAULT]
        before, after = (_mean([lines[at] for lines in own], "pass") for at in (0, -1))
    else:
        rows = read(results / "countdown-2026-11-28.jsonl")
        before, after = (
            next(row for row in rows if row["arm"] == arm)["unseen"]["pass"]
            for arm in ("base", DEFAULT)
        )
    verb = "falls" if after < before else "does not fall"
    return f"{verb} ({_share(before)} to {_share(after)} at {_commits(rows)})"


FIGURES: dict[str, Callable[[Path, Sequence[str]], str]] = {
    "demo": demo,
    "learn": learn,
    "learned": learned,
    "gate": gate,
    "study": study,
    "pass8": pass8,
}


def _first(rows: Sequence[Row], commits: Sequence[str]) -> Row:
    """Return the first row of one of the commits; if none has a row, of the newest clean one."""
    clean = [row for row in rows if not row["commit"].endswith("+")]
    of_commits = [row for row in clean if row["commit"] in commits]
    newest = [row for row in clean if row["commit"] == clean[-1]["commit"]]
    return (of_commits or newest)[0]


def _whole_study(results: Path) -> list[Row]:
    """Return the rows of all arms and seeds of the study; none if one is missing."""
    wanted = {(arm, seed) for arm in ARMS for seed in SEEDS}
    rows = [
        row
        for row in read(results / f"{BARE[0]}.jsonl")
        if row["run"]["iterations"] == ITERATIONS
        and (row["run"]["name"], row["run"]["seed"]) in wanted
    ]
    # A later tuning gives an arm other settings, and so a second row of a seed: the newest counts.
    newest = {(row["run"]["name"], row["run"]["seed"]): row for row in rows}
    return list(newest.values()) if newest.keys() == wanted else []


def _seed_table(rows: Sequence[Row]) -> str:
    """Return the table of a whole study: unseen questions, intervals over seeds."""
    seeds = len({row["run"]["seed"] for row in rows})
    default = [row["lines"][0] for row in rows if row["run"]["name"] == DEFAULT]
    table = [_cells(NAMES["base"], default, "")]
    for arm in ARMS:
        own = [row["lines"] for row in rows if row["run"]["name"] == arm]
        gains = [_mean([lines[-1]], "users") - _mean([lines[0]], "users") for lines in own]
        interval = t_interval(100 * np.array(gains), tail=0.025)
        gain = f"{interval.mean:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"
        table.append(_cells(NAMES[arm], [lines[-1] for lines in own], gain))
    about = (
        f" at commit {_commits(rows)}: a toy task ({BARE[0]}), {COUNTS.get(seeds, seeds)} seeds,"
        f" {ITERATIONS} iterations;\n"
        "right answers to **unseen** questions, on which no method trained: greedy, as users sample"
        " (temperature\n0.6), and at temperature 1. **pass@8** is the chance that one of eight is"
        " right. Brackets hold a 95 % interval over seeds.\n"
    )
    head = ["method", "greedy", "users", "gain, users", "temperature 1", "pass@8"]
    return _table(about, head, table)


def _cells(name: str, lines: Sequence[Row], gain: str) -> list[str]:
    greedy, users, plain, passed = (
        _share(_mean(lines, metric)) for metric in ("greedy", "users", "avg", "pass")
    )
    return [name, greedy, users, gain, plain, passed]


def _earlier_table(results: Path) -> str:
    """Return the table of 2026-11-28, which has eight responses to a question and no interval."""
    rows = read(results / "countdown-2026-11-28.jsonl")
    lines = [_earlier_cells(row) for row in rows]
    count = COUNTS[rows[0]["seeds"]]
    about = (
        f" at commit {_commits(rows)}, {rows[0]['date']}: a toy task (countdown), {count} seeds,"
        f" {rows[0]['iterations']} iterations. **avg@8** is the share of\n"
        "right answers among eight, **pass@8** the share of questions with at least one right"
        " answer among eight. **Adapted** questions\n"
        "were trained on without their answers; no method trained on **unseen** ones.\n"
    )
    head = ["method", "avg@8, adapted", "gain in points", "pass@8, adapted"]
    return _table(about, [*head, "avg@8, unseen", "pass@8, unseen"], lines)


def _earlier_cells(row: Row) -> list[str]:
    adapted, unseen = row["adapted"], row["unseen"]
    gain = "" if row["gain"] is None else f"{row['gain']:+.1f}"
    is_default = row["arm"] == DEFAULT
    avg = f"**{_share(adapted['avg'])}**" if is_default else _share(adapted["avg"])
    shares = (_share(adapted["pass"]), _share(unseen["avg"]), _share(unseen["pass"]))
    return [NAMES[row["arm"]], avg, gain, *shares]


def _table(about: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a text and a table up to the end of its last cell, where the comment stands."""
    every = [head, *lines]
    rows = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in every]
    rows.insert(1, f"|{'---|' * len(head)}")
    return "\n".join([about, *rows]).removesuffix(" |")


def _mean(lines: Sequence[Row], metric: str) -> float:
    return float(np.mean([np.mean(line["unseen"][metric]) for line in lines]))


def _commits(rows: Sequence[Row]) -> str:
    return ", ".join(sorted({row["commit"] for row in rows}))


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rewritten(path.read_text()))
