"""What the trainer must know of the server before it can sample: its key and its base model."""

from pathlib import Path

from tempo_client import Tempo
from tempo_client.errors import APIError
from tempo_storage.errors import SettingsError
from tempo_trainer.sampling.sampler import SamplingError
from tempo_trainer.worker_settings import WorkerSettings


def admin_key(settings: WorkerSettings) -> str:
    """Return the key with which the worker proves itself to the server."""
    if settings.api_key:
        return settings.api_key
    given = settings.api_key_file
    path = Path(given).expanduser() if given else settings.admin_key_path
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"no admin key at {path} ({error.strerror}); start the server first, or set "
            "TEMPO_API_KEY or TEMPO_API_KEY_FILE"
        ) from error


def served_base(settings: WorkerSettings, key: str) -> str:
    """Return the model that the server was started with: a directory or a hub id."""
    try:
        with Tempo(base_url=settings.base_url, api_key=key) as tempo:
            return tempo.status().model
    except APIError as error:
        raise SamplingError(f"{error}; is vLLM with the tempo plugin at {settings.base_url}") from (
            error
        )
