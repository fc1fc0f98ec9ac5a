"""List the settings: every TEMPO_ variable with its value, its default and its meaning.

tempo settings [--json] [PART]       exit code 1 if a variable has an unknown name or a bad value
tempo settings --markdown            the tables of the page server/docs/settings.md
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
ALL_PROCESSES = "All processes"  # the section of StorageSettings
FILES_MEANING = "Directory of files that are settings too: tempo_api_key holds TEMPO_API_KEY."


@dataclass(frozen=True, slots=True)
class Setting:
    """A variable with its current value, its default and its meaning."""

    name: str
    section: str
    """The processes that read it."""
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
    text = "print the tables of the documentation"
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
    files = Setting(FILES, ALL_PROCESSES, directory, "", FILES_MEANING)
    return [*describe(*installed_settings()), files]


def describe(*roles: type[BaseSettings]) -> list[Setting]:
    """Return each variable that these roles read, once, with secrets hidden."""
    settings: dict[str, Setting] = {}
    for role in roles:
        values = _values(role)
        for field, info in role.model_fields.items():
            name, default = PREFIX + field.upper(), str(info.default)
            value = _without_secrets(name, str(values.get(field, default)))
            meaning = " ".join((info.description or "").split())
            setting = Setting(name, _section(role, field), value, default, meaning)
            settings.setdefault(name, setting)
    return list(settings.values())


def markdown(settings: Sequence[Setting]) -> str:
    """Return a table for each section.

    It shows the defaults and no values, so it is the same in every environment.
    """
    lines: list[str] = []
    for section in dict.fromkeys(setting.section for setting in settings):
        lines += [f"## {section}", "", "| variable | default | meaning |", "|---|---|---|"]
        lines += [_row(setting) for setting in settings if setting.section == section]
        lines.append("")
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


def _section(role: type[BaseSettings], field: str) -> str:
    """Return the title of the class that declares a field of a role."""
    classes = [cls for cls in reversed(role.__mro__) if issubclass(cls, BaseSettings)]
    name = next(cls.__name__ for cls in classes if field in cls.model_fields)
    return ALL_PROCESSES if name == "StorageSettings" else name.removesuffix("Settings")


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
