"""List the settings: every TEMPO_ variable with its value, its default and its meaning.

tempo settings [--json] [PART]       exit code 1 if a variable has an unknown name or a bad value
tempo settings --markdown            the page server/docs/settings.md
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SecretsSettingsSource

from tempo_storage.errors import SettingsError
from tempo_storage.settings import FILES, PREFIX, StorageSettings, checked, installed_settings

HIDDEN = "***"
SECRET = "_KEY"
# The user and the password of a URL, and its query, which may hold a password, too. A "?" before an
# "@" may belong to the password or begin the query, so then everything is hidden.
CREDENTIALS = re.compile(r"(?<=://).*\?.*@.*|(?<=://).*(?=@)|(?<=\?).*")
FILES_MEANING = "Directory of files that are settings too: tempo_api_key holds TEMPO_API_KEY."
INTRODUCTION = """\
# Settings

`tempo settings --markdown` writes this page from the code. Change the code, not the page.

Each process reads a setting from its environment variable. If the variable is not set, the process
reads a file in the directory `TEMPO_SETTINGS_DIR`; the file has the variable's name in lower case.
Secrets belong in such files. A process does not start while an unknown `TEMPO_` variable is set;
its message suggests a known one. `tempo settings [PART]` lists the settings with their values.

The worker reads the settings under "Trainer" and "Worker". The SDK and the command `tempo` read
`TEMPO_BASE_URL`, `TEMPO_API_KEY`, `TEMPO_API_KEY_FILE` and `TEMPO_DATA_DIR`.

Some meanings name the source of a default. "Paper" is arXiv:2604.19295. "Reference code" is the
code that the paper's authors published. "Countdown" is the task of `make demo`: a very small model
learns it, and large models want smaller steps. [results.md](../../trainer/docs/results.md) has the
measured figures, each with its command and its commit. "Ours" is a choice of this project.
"""
TITLES = {"StorageSettings": "All processes"}


@dataclass(frozen=True, slots=True)
class Setting:
    """A variable with its current value, its default and its meaning."""

    name: str
    value: str
    default: str
    meaning: str


def main(arguments: Sequence[str]) -> int:
    """Print the settings, then the first error in their values; return 1 if there is one."""
    parser = argparse.ArgumentParser(
        prog="tempo settings", description=(__doc__ or "").split("\n")[0]
    )
    text = "list only the settings whose name or meaning contains this"
    parser.add_argument("part", nargs="?", default="", help=text)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON")
    text = "print the page of the documentation"
    forms.add_argument("--markdown", action="store_true", help=text)
    options = parser.parse_args(arguments)
    part = options.part.lower()
    show = _json if options.json else markdown if options.markdown else _text
    settings = [s for s in describe_all() if part in f"{s.name} {s.meaning}".lower()]
    try:
        if not settings:
            raise SettingsError(f"no setting is about {part!r}; `tempo settings` lists them all")
        print(show(settings))
        checked(StorageSettings)
    except SettingsError as error:
        print(f"tempo: {error}", file=sys.stderr)
        return 1
    return 0


def describe_all() -> list[Setting]:
    """Return the settings of all installed roles, and the variable that names a directory."""
    directory = str(StorageSettings.model_config.get("secrets_dir") or "")
    return [*describe(*installed_settings()), Setting(FILES, directory, "", FILES_MEANING)]


def describe(*roles: type[BaseSettings]) -> list[Setting]:
    """Return each variable that these roles read, once, with secrets hidden."""
    settings: dict[str, Setting] = {}
    for role in roles:
        values = _values(role)
        for field, info in role.model_fields.items():
            name, default = PREFIX + field.upper(), str(info.default)
            value = _without_secrets(name, str(values.get(field, default)))
            meaning = " ".join((info.description or "").split())
            settings.setdefault(name, Setting(name, value, default, meaning))
    return list(settings.values())


def markdown(settings: Sequence[Setting]) -> str:
    """Return a page of the documentation, with a table for each class that declares settings.

    It shows the defaults and no values, so it is the same in every environment.
    """
    sections = _sections()
    lines = [INTRODUCTION]
    for section in dict.fromkeys(sections.values()):
        rows = [_row(setting) for setting in settings if sections[setting.name] == section]
        if rows:
            head = [f"## {section}", "", "| variable | default | meaning |", "|---|---|---|"]
            lines += [*head, *rows, ""]
    return "\n".join(lines).rstrip()


def shown(value: str) -> str:
    """Return a value as the tables show it."""
    return value or "(empty)"


def _values(role: type[BaseSettings]) -> dict[str, Any]:
    """Return the values from variables and files as they are written, the invalid ones, too."""
    directory = role.model_config.get("secrets_dir")
    files = SecretsSettingsSource(role)() if Path(str(directory)).is_dir() else {}
    return files | EnvSettingsSource(role)()


def _without_secrets(name: str, value: str) -> str:
    if name.endswith(SECRET):
        return HIDDEN if value else ""
    return CREDENTIALS.sub(HIDDEN, value) if "://" in value else value


def _sections() -> dict[str, str]:
    """Return by variable the title of the class that declares it, the base classes first."""
    sections = {FILES: TITLES["StorageSettings"]}
    for role in installed_settings():
        for cls in reversed(role.__mro__):
            if issubclass(cls, BaseSettings):
                title = TITLES.get(cls.__name__, cls.__name__.removesuffix("Settings"))
                for field in cls.model_fields:
                    sections.setdefault(PREFIX + field.upper(), title)
    return sections


def _row(setting: Setting) -> str:
    default, meaning = (c.replace("|", "\\|") for c in (shown(setting.default), setting.meaning))
    return f"| `{setting.name}` | {default} | {meaning} |"


def _json(settings: Sequence[Setting]) -> str:
    return json.dumps([asdict(setting) for setting in settings], indent=2)


def _text(settings: Sequence[Setting]) -> str:
    """Return two lines for each setting on a terminal, else one line with tabs."""
    if not sys.stdout.isatty():
        rows = ((s.name, shown(s.value), shown(s.default), s.meaning) for s in settings)
        return "\n".join("\t".join(row) for row in rows)
    return "\n".join(
        f"{s.name} = {shown(s.value)}"
        + (f"   (default: {shown(s.default)})" if s.value != s.default else "")
        + f"\n    {s.meaning}"
        for s in settings
    )
