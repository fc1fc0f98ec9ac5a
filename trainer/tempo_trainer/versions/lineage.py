"""The lineage of a version: the data, the settings and the code that it was trained with."""

from typing import Any

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.installed import package_versions
from tempo_storage.settings import StorageSettings
from tempo_trainer.settings import TrainerSettings

# The settings that decide what is learned; not the places of data, whose URLs may hold a password.
SETTINGS = {*TrainerSettings.model_fields} - {*StorageSettings.model_fields} | {"lora_rank"}


def lineage_of(s: Session, checkpoint: str, base: str, settings: TrainerSettings) -> dict[str, Any]:
    """Return the lineage of the policy in a checkpoint; its critic is in the same checkpoint."""
    return {
        "checkpoint": checkpoint,
        "base": base,
        "labeled files": {file.id: file.sha256 for file in ledger.learned.files(s, checkpoint)},
        "held out": {
            "questions": ledger.labeled.count(s)["held_out"],
            "sha256": ledger.labeled.held_out_digest(s),
        },
        "settings": settings.model_dump(mode="json", include=SETTINGS),
        "code": package_versions(),
        "metrics": ledger.jobs.metrics(s, checkpoint),
    }
