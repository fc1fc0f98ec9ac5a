"""What a version came of, as far as the ledger does not say it elsewhere."""

import hashlib
import json
from typing import Any

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.installed import installed
from tempo_storage.settings import StorageSettings
from tempo_trainer.learning.learner import Learner
from tempo_trainer.settings import TrainerSettings

# Not where things are kept: a URL may hold a password.
SETTINGS = {*TrainerSettings.model_fields} - {*StorageSettings.model_fields} | {"lora_rank"}


def lineage_of(learner: Learner, s: Session) -> dict[str, Any]:
    """Return what the learner's policy was trained with; its critic is in the same checkpoint."""
    held_out = ledger.labeled.examples(s, "held_out")
    digest = hashlib.sha256(json.dumps([[e.content_hash, e.reference] for e in held_out]).encode())
    return {
        "checkpoint": learner.checkpoint,
        "base": learner.world.base,
        "labeled files": {file.id: file.sha256 for file in ledger.labeled.files(s)},
        "held out": {"questions": len(held_out), "sha256": digest.hexdigest()},
        "settings": learner.world.settings.model_dump(mode="json", include=SETTINGS),
        "code": installed(),
        "metrics": ledger.jobs.metrics(s, learner.checkpoint),
    }
