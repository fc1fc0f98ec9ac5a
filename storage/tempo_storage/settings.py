"""Settings that server and trainer share, read once from TEMPO_ variables at the process border."""

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tempo_storage.errors import SettingsError

logger = logging.getLogger("vllm.tempo.settings")
S = TypeVar("S", bound=BaseSettings)

PREFIX = "TEMPO_"
GROUP = "tempo.settings"
# Names a directory whose files are settings too: tempo_database_url holds TEMPO_DATABASE_URL.
FILES = "TEMPO_SETTINGS_DIR"
NOT_KNOWN = "unset it; `tempo settings` lists what there is"

# Read by the SDK (which has no pydantic) or set by one of our processes for its child.
OTHER_VARIABLES = frozenset(
    {"TEMPO_API_KEY", "TEMPO_API_KEY_FILE", "TEMPO_BASE_URL", "TEMPO_DIE_WITH_PARENT", FILES}
)

REMOVED_IN = "0.2"
# Version 0.1 read these variables. Version 0.2 logs a warning where one is set; 0.3 refuses it.
REMOVED_VARIABLES = {
    "TEMPO_ADVANTAGE_CLAMP",
    "TEMPO_ANSWER_MASK",
    "TEMPO_FAILPOINT",
    "TEMPO_GAE_DECAY",
    "TEMPO_ROLLOUTS_DIR",
    "TEMPO_VALUE_CLIP",
    "TEMPO_WHITEN_SCOPE",
    "TEMPO_WHITEN_SHIFT_UNLABELED",
}


class StorageSettings(BaseSettings):
    """Where things are kept, and the one property of adapters that both sides must agree on."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        secrets_dir=os.environ.get(FILES) or None,
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path("~/.tempo")
    """Directory of everything that must last, unless a URL below puts a part elsewhere."""
    database_url: str = ""
    """SQLAlchemy URL of the ledger; empty: SQLite in the data directory."""
    redis_url: str = ""
    """URL of Valkey or Redis; empty: an embedded Valkey in the data directory."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    """Rank of every adapter; vLLM's --max-lora-rank and the trainer's r."""

    @property
    def root(self) -> Path:
        """The data directory, absolute."""
        return self.data_dir.expanduser().resolve()

    @property
    def resolved_database_url(self) -> str:
        """The ledger's URL with the default filled in."""
        return self.database_url or f"sqlite:///{self.root / 'tempo.db'}"

    @property
    def adapters_dir(self) -> Path:
        """One directory per adapter."""
        return self.root / "adapters"

    @property
    def checkpoints_dir(self) -> Path:
        """The trainer's state, one directory per committed iteration."""
        return self.root / "checkpoints"

    @property
    def files_dir(self) -> Path:
        """Uploaded files as they came."""
        return self.root / "files"

    @property
    def admin_key_path(self) -> Path:
        """Where the first admin key is written (0600)."""
        return self.root / "admin.key"


def installed_settings() -> list[type[BaseSettings]]:
    """Return the settings of every installed role: one environment may serve several processes."""
    return [point.load() for point in entry_points(group=GROUP)]


def refuse_unknown_variables(
    *settings: type[BaseSettings], environ: Mapping[str, str] = os.environ
) -> None:
    """Raise SettingsError for a variable or secret that no settings class knows.

    A variable that an earlier version read is a warning instead.
    """
    known = OTHER_VARIABLES | {
        PREFIX + name.upper() for cls in settings for name in cls.model_fields
    }
    names = sorted({*environ, *_files(environ.get(FILES))})
    removed = REMOVED_VARIABLES - known
    _warn_of_removed(names, removed)
    for name in names:
        if name.upper().startswith(PREFIX) and name.upper() not in known | removed:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            instead = f"did you mean {close[0]}" if close else NOT_KNOWN
            raise SettingsError(f"unknown setting {name}; {instead}")


def checked(role: type[S]) -> S:
    """Return the settings of `role`; raise SettingsError for a variable that any role refuses."""
    roles = installed_settings()
    refuse_unknown_variables(*roles)
    try:
        for other in roles:
            if other is not role:
                other()
        return role()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        reason = first["msg"].removeprefix("Value error, ")  # pydantic's words before ours
        raise SettingsError(f"{PREFIX}{name} is {first['input']!r}; {reason}") from error


def _warn_of_removed(names: Iterable[str], removed: Iterable[str]) -> None:
    """Log one warning for each removed variable that is set."""
    for variable in sorted({name.upper() for name in names}.intersection(removed)):
        logger.warning("%s has no effect since version %s; remove it", variable, REMOVED_IN)


def _files(directory: str | None) -> list[str]:
    try:
        return os.listdir(directory) if directory else []
    except OSError as error:
        raise SettingsError(
            f"{FILES} is {directory} ({error.strerror}); mount the secrets there, or unset it"
        ) from error
