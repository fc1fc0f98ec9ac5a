"""Checks of the pages: settings, links, figures; and of plain English there and in the code."""

import ast
import inspect
import io
import re
import subprocess
import tokenize
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
SOURCES = sorted(path for c in COMPONENTS for path in (ROOT / c).rglob("*.py"))

MAX_README_LINES = 150
MAX_README_WORDS = 1050
MAX_LINES_BEFORE_COMMAND = 25
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
COMMIT = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7}\b")
MEASURED = re.compile(r"(?<![\w.])\.\d{3}\b|^\|.*\d (?:%|ms)", re.MULTILINE)
TEST_FILE = re.compile(r"(?:\w+/)*test_\w+\.py\b")
SOURCE_FILE = re.compile(r"`((?:\w+/)*\w+\.py)`")
CODE = re.compile(r"`[^`]*`|^ {4,}.*$", re.MULTILINE)
# A question may begin with these words; another sentence, or a fragment, may not.
DIALECT = re.compile(
    r"(?:^|[.!?:;] )(?:What|Which|Whom|How far|How much)\b[^?]*?(?:[.!:;]|$)"
    r"|^(?:what|which|whom|how far|how much)\b"
    r"|\b(?:is told|be had|came to|comes to)\b"
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its fenced code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    heads = (re.sub(r"[^\w\- ]", "", head.lower()) for head in HEADING.findall(prose(page)))
    return {head.strip().replace(" ", "-") for head in heads}


# README -------------------------------------------------------------------------------------------


def test_the_readme_is_read_in_a_few_minutes() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    assert len(text.split()) <= MAX_README_WORDS


def test_the_first_command_is_on_the_first_screen() -> None:
    lines = README.read_text().splitlines()
    fenced = [n + 1 for n, line in enumerate(lines, start=1) if line.startswith("```")]
    indented = [n for n, line in enumerate(lines, start=1) if line.startswith("    ")]
    assert min(fenced + indented) <= MAX_LINES_BEFORE_COMMAND


# Settings -----------------------------------------------------------------------------------------


def test_the_tables_of_settings_are_what_the_code_says() -> None:
    _, head, tables = SETTINGS.read_text().partition("## ")
    assert head + tables == markdown(describe_all()) + "\n", "tempo settings --markdown"


def test_every_variable_of_every_role_has_its_row() -> None:
    page = SETTINGS.read_text()
    names = {f"TEMPO_{f.upper()}" for role in installed_settings() for f in role.model_fields}
    rows = {s.name: f"| `{s.name}` | {shown(s.default)} | {s.meaning} |" for s in describe_all()}
    assert [name for name in sorted(names) if rows[name] not in page] == []


def test_every_setting_that_a_page_names_exists() -> None:
    names = {setting.name for setting in describe_all()}
    for page in PAGES:
        assert set(re.findall(r"\bTEMPO_[A-Z_]*[A-Z]\b", page.read_text())) <= names, relative(page)


# Links, files, modules ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=relative)
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


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    paths = [f"/{relative(path)}" for path in (ROOT / "tests").rglob("test_*.py")]
    names = set(TEST_FILE.findall(page.read_text()))
    assert [n for n in sorted(names) if not any(path.endswith(f"/{n}") for path in paths)] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_source_files_that_a_page_names_exist(page: Path) -> None:
    paths = [f"/{relative(path)}" for path in SOURCES]
    names = set(SOURCE_FILE.findall(page.read_text()))
    assert [n for n in sorted(names) if not any(path.endswith(f"/{n}") for path in paths)] == []


@pytest.mark.parametrize("component", ["server", "trainer", "storage", "clients"])
def test_the_component_s_page_names_each_of_its_folders(component: str) -> None:
    page = (ROOT / component / "README.md").read_text()
    folders = [path.parent.name for path in (ROOT / component).glob("tempo_*/*/__init__.py")]
    assert folders
    assert [folder for folder in folders if f"`{folder}/`" not in page] == []


@pytest.mark.parametrize("component", ["server", "trainer", "storage"])
def test_the_component_s_page_names_each_module_beside_the_folders(component: str) -> None:
    page = (ROOT / component / "README.md").read_text()
    modules = [path.stem for path in (ROOT / component).glob("tempo_*/[!_]*.py")]
    assert modules
    assert [module for module in modules if f"`{module}`" not in page] == []


# Promises and figures -----------------------------------------------------------------------------


def injected_faults() -> Iterator[tuple[int, str]]:
    """Yield number and file of each marker `fault` of the tests."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault"):
                yield ast.literal_eval(node.args[0]), path.name


def test_the_guarantees_have_each_fault_that_is_injected_beside_its_test() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)$", GUARANTEES.read_text(), re.MULTILINE)
    faults = {(int(n), Path(file).name) for n, row in rows for file in TEST_FILE.findall(row)}
    assert faults == set(injected_faults())


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
    literals = set(re.findall(r'"((?:e_step|m_step|time|rollouts)/\w+)"', code))
    assert phases
    assert literals
    return {*example(EMReport).metrics(), *phases, *literals}


def test_every_metric_is_explained() -> None:
    page = METRICS.read_text()
    assert sorted(key for key in metric_keys() if f"| `{key}` |" not in page) == []


def test_every_metric_that_is_explained_exists() -> None:
    assert set(re.findall(r"^\| `(\S+)` \|", METRICS.read_text(), re.MULTILINE)) <= metric_keys()


@pytest.mark.parametrize("page", [p for p in PAGES if p != SETTINGS], ids=relative)
def test_measured_figures_stand_beside_a_commit(page: Path) -> None:
    sections = re.split(r"^(?=#{1,6} )", page.read_text(), flags=re.MULTILINE)
    with_figures = [section for section in sections if MEASURED.search(section)]
    assert [s.splitlines()[0] for s in with_figures if not COMMIT.search(s)] == []


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


# Plain English ------------------------------------------------------------------------------------


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs, list items, table cells and headings of a text, without code."""
    parts = re.split(r"\n\s*\n|\n(?=#+ |[-*] |\d+\. )|\|", CODE.sub("", text))
    return [" ".join(part.lstrip("#-* ").split()) for part in parts if part]


def docstrings(code: str) -> Iterator[str]:
    """Yield the docstrings of a module, of its classes and functions, and of fields."""
    for node in ast.walk(ast.parse(code)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield inspect.cleandoc(value.value)


def comments(code: str) -> Iterator[str]:
    """Yield each comment; lines of comment that follow each other are one."""
    lines: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type != tokenize.COMMENT:
            continue
        is_whole_line = token.line.lstrip().startswith("#")
        if not (is_whole_line and token.start[0] == last + 1):
            yield "\n".join(lines)
            lines = []
        lines.append(token.string.lstrip("# "))
        last = token.start[0] if is_whole_line else 0
    yield "\n".join(lines)


def dialect(text: str) -> list[str]:
    """Return the paragraphs that are not in plain English."""
    return [part for part in paragraphs(text) if DIALECT.search(part)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_pages_are_in_plain_english(page: Path) -> None:
    assert dialect(prose(page)) == []


@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_docstrings_and_comments_are_in_plain_english(source: Path) -> None:
    code = source.read_text()
    assert [part for text in (*docstrings(code), *comments(code)) for part in dialect(text)] == []


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("What a client reads of an answer.", False),
        ("An answer.\nWhich adapter gave it\nis in the header.", False),
        ("# which runs already", False),
        ("The worker is told\nto stop.", False),
        ("`What` is a variable.", True),
        ("    What an example prints.", True),
        ("What is 12 * 13?", True),
        ("The check decides which version serves.", True),
    ],
)
def test_the_check_of_plain_english_finds_sentences_over_lines(text: str, is_plain: bool) -> None:
    assert (dialect(text) == []) is is_plain
