"""The parts of a worker that test designed candidates on a real server; see designed.py."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import designed
from ledgers import candidate, hold_lease

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Job
from tempo_trainer.sampling import verifiers
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.sampling.sampler import Sampler
from tempo_trainer.sampling.server import served_model
from tempo_trainer.sampling.verifier_pool import VerifierPool
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.answers import AnswerBook, draw_answers
from tempo_trainer.versions.comparison import compare
from tempo_trainer.versions.promotion import record_decision
from tempo_trainer.worker_settings import WorkerSettings

SUMMARY = {"iterations": 1, "critic_within_auroc": 0.8}


class Judge:
    """The parts of a worker that test a candidate."""

    def __init__(self, server: Any, stack: ExitStack) -> None:
        self.server = server
        self.settings = WorkerSettings(
            base_url=server.base_url, data_dir=server.data_dir, max_response_tokens=4
        )
        _, decoding = served_model(self.settings, server.admin_key)
        epoch = hold_lease(server.sessions, "judge")
        self.sessions = LeasedSessions(server.sessions, lambda: epoch)
        sampler = Sampler(self.settings, key=server.admin_key)
        pool = stack.enter_context(VerifierPool(verifiers.names()))
        self.responses = ResponseSource(
            self.settings, self.sessions, Decks(), sampler, pool, decoding
        )
        stack.callback(sampler.close)
        self.book = AnswerBook(partial(draw_answers, self.responses))

    def publish(self, wanted: Mapping[str, float]) -> int:
        """Publish a version with these shares and return its number."""
        with self.server.sessions.begin() as s:
            version = ledger.versions.next_version(s)
            serving = ledger.versions.serving(s).version
            manifest = self.server.store.publish(
                version_name(version),
                lambda folder: designed.write_adapter(
                    folder, self.server.model, designed.questions(), wanted
                ),
                base=str(self.server.model),
            )
            s.add(candidate(version, parent=serving, bytes=manifest.bytes))
            ledger.published.add(s, manifest)
        return version

    def test(self, wanted: Mapping[str, float]) -> tuple[str, dict[str, Any]]:
        """Publish a version with these shares and test it; return outcome and report."""
        version = self.publish(wanted)
        with self.server.sessions.begin() as s:
            job = ledger.jobs.create(s, f"job{version}", "round", {})
            job.status = "running"
            job.serving_sequence = ledger.versions.serving(s).sequence
        with self.server.sessions() as s:
            row: Job = ledger.jobs.get(s, job.id)
        test = compare(
            self.settings, self.sessions, self.responses, self.book, version, round_tokens=0
        )
        result = record_decision(self.sessions, row, version, test, checkpoint="", summary=SUMMARY)
        with self.server.sessions.begin() as s:
            ledger.jobs.finish(s, job.id, "succeeded", result=result)
        return result.report["decision"], result.report["gate"] | {"version": version}
