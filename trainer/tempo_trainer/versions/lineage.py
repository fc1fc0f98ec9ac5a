"""The lineage of a version: the data, the settings and the code that it was trained with."""

import hashlib
import json
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
    held_out = ledger.labeled.examples(s, "held_out")
    digest = hashlib.sha256(json.dumps([[e.content_hash, e.reference] for e in held_out]).encode())
    return {
        "checkpoint": checkpoint,
        "base": base,
        "labeled files": {file.id: file.sha256 for file in ledger.labeled.files(s)},
        "held out": {"questions": len(held_out), "sha256": digest.hexdigest()},
        "settings": settings.model_dump(mode="json", include=SETTINGS),
        "code": package_versions(),
        "metrics": ledger.jobs.metrics(s, checkpoint),
    }
