"""List the settings: every TEMPO_ variable with its value, its default and its meaning.

tempo settings [--json] [PART]       exit code 1 when one is set that cannot be used
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
# User and password of a URL, and its query, where a password may stand too; where it cannot be told
# which is which, all of it.
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
    """A variable: what it is here, what it is by default, what it means."""

    name: str
    value: str
    default: str
    meaning: str


def main(arguments: Sequence[str]) -> int:
    """Print the settings, then what is wrong with one of them; return 1 in that case."""
    parser = argparse.ArgumentParser(
        prog="tempo settings", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("part", nargs="?", default="", help="of a name or a meaning: only those")
    parser.set_defaults(form=_text)
    forms = parser.add_mutually_exclusive_group()
    for flag, form, text in (
        ("--json", _json, "print JSON"),
        ("--markdown", markdown, "print the page of the documentation"),
    ):
        forms.add_argument(flag, dest="form", action="store_const", const=form, help=text)
    options = parser.parse_args(arguments)
    part = options.part.lower()
    found = [s for s in every() if part in f"{s.name} {s.meaning}".lower()]
    try:
        if not found:
            raise SettingsError(f"no setting is about {part!r}; `tempo settings` lists them all")
        print(options.form(found))
        checked(StorageSettings)
    except SettingsError as error:
        print(f"tempo: {error}", file=sys.stderr)
        return 1
    return 0


def every() -> list[Setting]:
    """Return the settings of all installed roles, and the variable that names a directory."""
    return [*described(*installed_settings()), _files()]


def described(*roles: type[BaseSettings]) -> list[Setting]:
    """Return every variable that these roles read, once, with secrets hidden."""
    found: dict[str, Setting] = {}
    for role in roles:
        given = _given(role)
        for field, info in role.model_fields.items():
            name, default = PREFIX + field.upper(), str(info.default)
            value = _hidden(name, str(given.get(field, default)))
            meaning = " ".join((info.description or "").split())
            found.setdefault(name, Setting(name, value, default, meaning))
    return list(found.values())


def markdown(settings: Sequence[Setting]) -> str:
    """Return a page of documentation: one table for each class that declares some of these.

    It shows defaults only, so it is the same whatever is set.
    """
    owners = _owners()
    lines = [INTRODUCTION]
    for owner in dict.fromkeys(owners.values()):
        rows = [_row(setting) for setting in settings if owners[setting.name] is owner]
        if rows:
            head = [f"## {_title(owner)}", "", "| variable | default | meaning |", "|---|---|---|"]
            lines += [*head, *rows, ""]
    return "\n".join(lines).rstrip()


def shown(value: str) -> str:
    """Return a value as a table has it."""
    return value or "(empty)"


def _given(role: type[BaseSettings]) -> dict[str, Any]:
    """Return what is set, as it is written: a value that is refused is shown, too."""
    directory = role.model_config.get("secrets_dir")
    files = SecretsSettingsSource(role)() if Path(str(directory)).is_dir() else {}
    return files | EnvSettingsSource(role)()


def _hidden(name: str, value: str) -> str:
    if name.endswith(SECRET):
        return HIDDEN if value else ""
    return CREDENTIALS.sub(HIDDEN, value) if "://" in value else value


def _files() -> Setting:
    directory = StorageSettings.model_config.get("secrets_dir")
    return Setting(FILES, str(directory or ""), "", FILES_MEANING)


def _owners() -> dict[str, type[BaseSettings]]:
    """Return the class that declares each variable, the base classes first."""
    owners: dict[str, type[BaseSettings]] = {FILES: StorageSettings}
    for role in installed_settings():
        for cls in reversed(role.__mro__):
            if issubclass(cls, BaseSettings):
                for field in cls.model_fields:
                    owners.setdefault(PREFIX + field.upper(), cls)
    return owners


def _title(owner: type[BaseSettings]) -> str:
    return TITLES.get(owner.__name__, owner.__name__.removesuffix("Settings"))


def _row(setting: Setting) -> str:
    default, meaning = (c.replace("|", "\\|") for c in (shown(setting.default), setting.meaning))
    return f"| `{setting.name}` | {default} | {meaning} |"


def _json(found: Sequence[Setting]) -> str:
    return json.dumps([asdict(setting) for setting in found], indent=2)


def _text(found: Sequence[Setting]) -> str:
    """Return two lines for each on a terminal, else cells separated by tabs."""
    if not sys.stdout.isatty():
        rows = ((s.name, shown(s.value), shown(s.default), s.meaning) for s in found)
        return "\n".join("\t".join(row) for row in rows)
    return "\n".join(
        f"{s.name} = {shown(s.value)}"
        + (f"   (default: {shown(s.default)})" if s.value != s.default else "")
        + f"\n    {s.meaning}"
        for s in found
    )
