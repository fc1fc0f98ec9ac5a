"""The pages name everything that an operator can set, their links lead somewhere, and no figure
stands alone."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tempo_storage.settings import installed_settings
from tempo_storage.settings_table import describe_all, markdown, shown
from tempo_trainer.algorithm.reports import EMReport

ROOT = Path(__file__).parents[2]
COMPONENTS = ("server", "trainer", "storage", "clients", "docker", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(p for c in COMPONENTS for p in (ROOT / c).rglob("*.md"))])
README = ROOT / "README.md"
SETTINGS = ROOT / "server" / "docs" / "settings.md"
GUARANTEES = ROOT / "server" / "docs" / "guarantees.md"
METRICS = ROOT / "trainer" / "docs" / "metrics.md"

MOST_LINES, MOST_WORDS, FIRST_COMMAND = 150, 1050, 25
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
COMMIT = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7}\b")
MEASURED = re.compile(r"(?<![\w.])\.\d{3}\b|^\|.*\d (?:%|ms)", re.MULTILINE)
TEST_FILE = re.compile(r"(?:\w+/)*test_\w+\.py\b")
DIALECT = re.compile(
    r"(?:^|[.!:] )(?:What|Which|Whom|How far|How much)\b[^?\n]*[.;:]"
    r"|\b(?:is told|be had|came to|comes to)\b",
    re.MULTILINE,
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its fenced code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    kept = (re.sub(r"[^\w\- ]", "", head.lower()) for head in HEADING.findall(prose(page)))
    return {head.strip().replace(" ", "-") for head in kept}


# README -------------------------------------------------------------------------------------------


def test_the_readme_is_read_in_a_few_minutes() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert len(text.split()) <= MOST_WORDS


def test_the_first_command_is_on_the_first_screen() -> None:
    lines = README.read_text().splitlines()
    fenced = [n + 1 for n, line in enumerate(lines, start=1) if line.startswith("```")]
    indented = [n for n, line in enumerate(lines, start=1) if line.startswith("    ")]
    assert min(fenced + indented) <= FIRST_COMMAND


# Settings -----------------------------------------------------------------------------------------


def test_the_page_of_settings_is_what_the_code_says() -> None:
    page = markdown(describe_all()) + "\n"
    assert SETTINGS.read_text() == page, "tempo settings --markdown > the page"


def test_every_variable_of_every_role_has_its_row() -> None:
    page = SETTINGS.read_text()
    names = {f"TEMPO_{f.upper()}" for role in installed_settings() for f in role.model_fields}
    rows = {s.name: f"| `{s.name}` | {shown(s.default)} | {s.meaning} |" for s in describe_all()}
    assert [name for name in sorted(names) if rows[name] not in page] == []


def test_no_page_names_a_setting_that_there_is_not() -> None:
    known = {setting.name for setting in describe_all()}
    for page in PAGES:
        assert set(re.findall(r"\bTEMPO_[A-Z_]*[A-Z]\b", page.read_text())) <= known, named(page)


# Links, files, rooms ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_pictures_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"\w+:", target):  # another site's
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    there = [f"/{named(path)}" for path in (ROOT / "tests").rglob("test_*.py")]
    names = set(TEST_FILE.findall(page.read_text()))
    assert [n for n in sorted(names) if not any(path.endswith(f"/{n}") for path in there)] == []


@pytest.mark.parametrize("component", ["server", "trainer", "storage", "clients"])
def test_the_component_s_page_names_each_of_its_rooms(component: str) -> None:
    page = (ROOT / component / "README.md").read_text()
    rooms = [path.parent.name for path in (ROOT / component).glob("tempo_*/*/__init__.py")]
    assert rooms
    assert [room for room in rooms if f"`{room}/`" not in page] == []


# Promises and figures -----------------------------------------------------------------------------


def injected_faults() -> Iterator[tuple[int, str]]:
    """Yield number and file of each marker `fault` of the tests."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault"):
                yield ast.literal_eval(node.args[0]), path.name


def test_the_guarantees_have_each_fault_that_is_injected_beside_its_test() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)$", GUARANTEES.read_text(), re.MULTILINE)
    listed = {(int(n), Path(file).name) for n, row in rows for file in TEST_FILE.findall(row)}
    assert listed == set(injected_faults())


def example(hint: Any) -> Any:
    """Return a report, all of its parts included, with a number wherever there may be one."""
    for part in get_args(hint) or (hint,):
        if isinstance(part, type) and is_dataclass(part):
            hints = get_type_hints(part)
            return part(**{field.name: example(hints[field.name]) for field in fields(part)})
        if part in (int, float):
            return part(1)
    return None


def metric_keys() -> set[str]:
    """Return the keys of a report, of the phases, and those that stand in the code as they are."""
    code = "".join(p.read_text() for p in (ROOT / "trainer" / "tempo_trainer").rglob("*.py"))
    phases = {f"time/{name}_seconds" for name in re.findall(r'\bphase\("(\w+)"\)', code)}
    literal = set(re.findall(r'"((?:e_step|m_step|time|rollouts)/\w+)"', code))
    assert phases
    assert literal
    return {*example(EMReport).metrics(), *phases, *literal}


def test_every_metric_is_explained() -> None:
    page = METRICS.read_text()
    assert sorted(key for key in metric_keys() if f"| `{key}` |" not in page) == []


def test_no_metric_is_explained_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `(\S+)` \|", METRICS.read_text(), re.MULTILINE)) <= metric_keys()


@pytest.mark.parametrize("page", [p for p in PAGES if p != SETTINGS], ids=named)
def test_measured_figures_stand_beside_a_commit(page: Path) -> None:
    sections = re.split(r"^(?=#{1,6} )", page.read_text(), flags=re.MULTILINE)
    measured = [section for section in sections if MEASURED.search(section)]
    alone = [s.splitlines()[0] for s in measured if not COMMIT.search(s)]
    assert alone == []


def test_the_figures_among_the_settings_have_a_page() -> None:
    assert "(../../trainer/docs/results.md)" in SETTINGS.read_text()


def test_the_commits_exist() -> None:
    names = sorted({name for page in PAGES for name in COMMIT.findall(page.read_text())})
    git = ["git", "cat-file", "--batch-check"]
    answer = subprocess.run(
        git, cwd=ROOT, input="\n".join(names), capture_output=True, text=True, timeout=30
    )
    unknown = [line.split()[0] for line in answer.stdout.splitlines() if " commit " not in line]
    if answer.returncode or len(unknown) == len(names):
        pytest.skip("this copy has no history")
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_pages_are_in_plain_english(page: Path) -> None:
    assert DIALECT.findall(prose(page)) == []
