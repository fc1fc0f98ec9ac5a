"""List the settings: every TEMPO_ variable with its value, its default and its meaning.

tempo settings [--json] [PART]       exit code 1 when one is set that cannot be used
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    known = [*described(*installed_settings()), _files()]
    part = options.part.lower()
    found = [s for s in known if part in f"{s.name} {s.meaning}".lower()]
    try:
        if not found:
            raise SettingsError(f"no setting is about {part!r}; `tempo settings` lists them all")
        print(json.dumps([asdict(s) for s in found], indent=2) if options.json else _text(found))
        checked(StorageSettings)
    except SettingsError as error:
        print(f"tempo: {error}", file=sys.stderr)
        return 1
    return 0


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
