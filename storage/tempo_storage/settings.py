"""Settings that server and trainer share, read once from TEMPO_ variables at the process border."""

import difflib
import logging
import os
from collections.abc import Mapping
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
# This variable names a directory whose files are settings, too: the file tempo_database_url holds
# the value of TEMPO_DATABASE_URL.
FILES = "TEMPO_SETTINGS_DIR"

# The SDK, which has no pydantic, reads some of these; a process sets the others for its child.
OTHER_VARIABLES = frozenset(
    {"TEMPO_API_KEY", "TEMPO_API_KEY_FILE", "TEMPO_BASE_URL", "TEMPO_DIE_WITH_PARENT", FILES}
)

REMOVED_IN = "0.2"
UNMEASURED = "no experiment has shown a use of it"
FIXED_TEST = "the gate's test is fixed, so that its error rates hold"
# Version 0.1 read these variables; each has the reason why it is gone. Version 0.2 logs a warning
# where one is set; 0.3 refuses it.
REMOVED_VARIABLES = {
    "TEMPO_ADVANTAGE_CLAMP": UNMEASURED,
    "TEMPO_ANSWER_MASK": UNMEASURED,
    "TEMPO_CRITIC_KEEPS_ZERO_VARIANCE": UNMEASURED,
    "TEMPO_FAILPOINT": "only tests used it",
    "TEMPO_FITNESS_AUROC": "the critic must know right from wrong within a question",
    "TEMPO_FITNESS_COSINE": "the cosine of the advantages was biased upward",
    "TEMPO_GAE_DECAY": UNMEASURED,
    "TEMPO_GATE_DELTA": FIXED_TEST,
    "TEMPO_GATE_ENTROPY_RATIO": "it refused versions for being right",
    "TEMPO_GATE_PASS_K_MARGIN": FIXED_TEST,
    "TEMPO_MASK_TRUNCATED": UNMEASURED,
    "TEMPO_POLICY_RATIO": UNMEASURED,
    "TEMPO_ROLLOUTS_DIR": "only tests used it",
    "TEMPO_VALUE_CLIP": UNMEASURED,
    "TEMPO_WHITEN_SCOPE": UNMEASURED,
    "TEMPO_WHITEN_SHIFT_UNLABELED": UNMEASURED,
}


class StorageSettings(BaseSettings):
    """The places of all data, and the adapters' rank, on which server and trainer must agree."""

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
    retention_days: float = Field(default=0, ge=0, le=36_500)
    """Days after which a captured question is deleted, wherever it is; 0: never for its age."""
    vllm_api_key: str = ""
    """Key that users send to vLLM (its --api-key); empty: that of VLLM_API_KEY, or none."""
    trust_env: bool = False
    """Whether requests to a server on another machine use HTTP_PROXY, SSL_CERT_FILE and the like.
    Those to this machine never do."""
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
        """Uploaded files, byte for byte."""
        return self.root / "files"

    @property
    def admin_key_path(self) -> Path:
        """The file of the first admin key, readable by its owner only."""
        return self.root / "admin.key"


def read_key(path: Path) -> str:
    """Return the key in a file; raise SettingsError where it cannot be read or is empty."""
    remedy = "start the server first, or set TEMPO_API_KEY or TEMPO_API_KEY_FILE"
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text")
        raise SettingsError(f"no admin key at {path} ({reason}); {remedy}") from error
    if not key:
        raise SettingsError(f"the key file {path} is empty; write a key into it, or delete it")
    return key


def installed_settings() -> list[type[BaseSettings]]:
    """Return the settings classes of every installed role.

    One environment may serve processes of several roles.
    """
    return [point.load() for point in entry_points(group=GROUP)]


def refuse_unknown_variables(
    *settings: type[BaseSettings], environ: Mapping[str, str] = os.environ
) -> None:
    """Raise SettingsError for a variable or a settings file that no settings class declares.

    Log a warning for one that an earlier version read.
    """
    variables = OTHER_VARIABLES | {
        PREFIX + field.upper() for cls in settings for field in cls.model_fields
    }
    names = {name.upper(): name for name in (*environ, *_files(environ.get(FILES)))}
    for variable, name in sorted(names.items()):
        if not variable.startswith(PREFIX):
            continue
        if variable in variables:
            _refuse_empty_file(name, environ)
            continue
        if variable in REMOVED_VARIABLES:
            reason = REMOVED_VARIABLES[variable]
            logger.warning(
                "%s has no effect since version %s (%s); remove it", variable, REMOVED_IN, reason
            )
            continue
        close = difflib.get_close_matches(variable, variables, n=1)
        remedy = f"did you mean {close[0]}" if close else "unset it; see `tempo settings`"
        raise SettingsError(f"unknown setting {name}; {remedy}")


def _refuse_empty_file(name: str, environ: Mapping[str, str]) -> None:
    """Raise SettingsError for a settings file that says nothing: an empty key would be no key."""
    path = Path(environ.get(FILES, "")) / name
    if name not in environ and path.is_file() and not path.read_bytes().strip():
        raise SettingsError(f"the settings file {path} is empty; write a value, or delete it")


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
        reason = first["msg"].removeprefix("Value error, ")  # pydantic adds this to our message
        raise SettingsError(f"{PREFIX}{name} is {first['input']!r}; {reason}") from error


def _files(directory: str | None) -> list[str]:
    """Return the names of the settings files."""
    try:
        return os.listdir(directory) if directory else []
    except OSError as error:
        raise SettingsError(
            f"{FILES} is {directory} ({error.strerror}); mount the secrets there, or unset it"
        ) from error
