"""Settings of the worker process.

They say where the server is, how much the worker asks of it, and when rounds and checks start.
"""

from typing import Any

from pydantic import Field

from tempo_storage.labeled.split import MAX_ASKED
from tempo_storage.settings import StorageSettings
from tempo_trainer.settings import TrainerSettings

# These name no setting of learning, and some of them are secrets.
OF_THE_PROCESS = {"base_url", "api_key", "api_key_file", "die_with_parent"}


class WorkerSettings(TrainerSettings):
    """The trainer's settings, and those of the process around it."""

    base_url: str = "http://127.0.0.1:8000"
    """Address of the vLLM server. Training learns from the questions of its users."""
    api_key: str = ""
    """An admin key. If it is empty, the worker reads `api_key_file`."""
    api_key_file: str = ""
    """File with an admin key. If it is empty, the worker reads admin.key in the data directory."""
    prompts_per_request: int = Field(default=4, ge=1, le=64)
    """Questions in one rollout request; each gets `group_size` responses. Small requests end soon,
    so training pauses soon when users queue."""
    requests_in_flight: int = Field(default=4, ge=1, le=64)
    """Rollout requests at once. It bounds what training takes from users."""
    patience_seconds: float = Field(default=180.0, ge=1, le=3600)
    """Seconds that a job waits for a server that does not answer; then the attempt fails. A large
    model takes minutes to restart."""
    round_questions: int = Field(default=64, ge=0)
    """New distinct questions after which a round starts by itself; 0: rounds start on request
    only. The default is two iterations' worth of questions."""
    recalibrate_hours: float = Field(default=0, ge=0)
    """Hours after which a critic that was not recalibrated is recalibrated; 0: only in rounds and
    on request."""
    recalibrate_auroc: float = Field(default=0.55, ge=0, le=1)
    """If a round ended with a lower AUROC within held-out questions, the critic is recalibrated
    before the next round starts by itself: `warm_up_steps` E-steps, no M-step. 0: never. The
    default is just above chance by more than noise; an M-step needs proof of more than 0.5."""
    gate_questions: int = Field(default=MAX_ASKED, ge=8)
    """Largest number of held-out questions that the gate or a check asks; it bounds the cost. In a
    test each version gives to each of them up to five times `gate_samples` responses as users
    sample, `gate_samples` at temperature 1, and a greedy one. With fewer than 32 nothing is
    promoted by itself."""
    sentinel_seconds: float = Field(default=900, ge=0)
    """Seconds from a promotion or a check to the next check of the serving version; 0: never."""
    sentinel_checks: int = Field(default=3, ge=1, le=50)
    """Checks in a row that must find the serving version below the base. Then it is rolled back and
    training is paused. A version as good as the base fails one check of forty by chance."""
    versions_kept: int = Field(default=20, ge=3)
    """Versions whose files are kept: those in use, then the newest. All versions' rows stay."""
    versions_bytes: int = Field(default=50 * 1024**3, ge=1)
    """Bytes that the adapters and checkpoints of versions may take. Those in use stay beyond it."""
    pool_questions: int = Field(default=20_000, ge=1)
    """Distinct captured questions that are kept. Those that nobody asked for the longest time are
    deleted first."""
    tenant_quarantine: int = Field(default=0, ge=0, le=1_000_000)
    """Distinct questions that a new tenant asks before training learns from any of them, unless an
    operator admits it (`tempo admit`). 0: training learns from all tenants at once."""
    verifier_processes: int = Field(default=1, ge=1, le=64)
    """Processes that verify responses. Raise it if a verifier is slow."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of the trainer; 0: half of the cores, because threads that wait for busy cores
    slow all others down."""
    die_with_parent: bool = False
    """End this process when the process that started it ends, even if that one was killed."""

    def of_learning(self) -> dict[str, Any]:
        """Return the settings that decide how and when the model learns, for the audit."""
        return self.model_dump(
            mode="json", exclude={*StorageSettings.model_fields, *OF_THE_PROCESS}
        )
