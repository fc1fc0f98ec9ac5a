"""Let versions answer the held-out questions under vLLM, and make the gate's report."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.split import missing_labels, smallest_gain
from tempo_storage.ledger.models import LabeledExample
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions import gate
from tempo_trainer.versions.answers import AnswerBook, Comparison, figures
from tempo_trainer.versions.domain import MAX_TEXTS, likeness
from tempo_trainer.worker_settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class TestedCandidate:
    """The gate's decision on a candidate, and the report that people read."""

    decision: gate.Decision
    report: dict[str, Any]
    held_out: str = ""
    """Digest of the questions that were asked, since others may be uploaded meanwhile; "": today's."""


def compare(
    settings: WorkerSettings,
    sessions: LeasedSessions,
    responses: ResponseSource,
    book: AnswerBook,
    candidate: int,
    *,
    round_tokens: int,
) -> TestedCandidate:
    """Let base, serving version and candidate answer, and return the gate's decision.

    `round_tokens` are the response tokens that the round itself sampled. Raises InvalidInputError
    if no held-out question leaves room for a response.
    """
    started = time.monotonic()
    with sessions.read() as s:
        serving = ledger.versions.serving(s).version
        held_out = ledger.labeled.held_out(s, limit=settings.gate_questions)
        decoding = ledger.pool.users_decoding(s, responses.default_decoding)
        counts = ledger.labeled.count(s)
        digest = ledger.labeled.held_out_digest(s)
        tests = ledger.gate_tests.count(s)
        asked = ledger.pool.newest_messages(s, MAX_TEXTS)
        train = ledger.labeled.examples(s, "train")
    examples = responses.fitting(held_out)
    if not examples:
        raise InvalidInputError(
            f"none of {len(held_out)} held-out questions leaves room for a response of"
            f" TEMPO_MAX_RESPONSE_TOKENS, {settings.max_response_tokens}; lower it, or upload"
            " shorter questions"
        )
    book.open(examples, (BASE, serving))
    facts = gate.Facts(
        decoding=decoding,
        references=[example.reference for example in examples],
        groups=[_group(example) for example in examples],
        missing_labels=missing_labels(**counts),
        likeness=likeness(
            [messages[-1]["content"] for messages in asked],
            [example.messages[-1]["content"] for example in [*examples, *train]],
        ),
        tests=tests,
    )
    decision = gate.decide(
        Comparison(book, examples, serving, candidate), facts, k=settings.gate_samples
    )
    book.forget(candidate)
    cost = {
        "responses": book.drawn_responses,
        "tokens": book.drawn_tokens,
        "round_tokens": round_tokens,
        "seconds": round(time.monotonic() - started, 1),
    }
    too_long = len(held_out) - len(examples)
    shown = report(decision, facts, cost=cost, too_long=too_long)
    return TestedCandidate(decision, shown, digest)


def report(
    decision: gate.Decision, facts: gate.Facts, *, cost: dict[str, float], too_long: int
) -> dict[str, Any]:
    """Return what people read about a test: the figures behind the decision, as JSON."""
    users = decision.users
    questions, responses = users.candidate.outcomes.shape
    sides = {"users": users, "greedy": decision.greedy, "plain": decision.plain}
    return {
        "promote": decision.promote,
        "reason": decision.reason,
        "questions": questions,
        "too_long": too_long,
        "missing_labels": facts.missing_labels,
        "smallest_gain": smallest_gain(questions),
        "decoding": asdict(facts.decoding),
        "responses": responses,
        "looks": [_look(look) for look in decision.looks],
        "accuracy": {
            role: figures({name: getattr(side, role) for name, side in sides.items()})
            for role in ("base", "serving", "candidate")
        },
        "tests": facts.tests + 1,
        "max_tests": gate.MAX_TESTS,
        "likeness": round(facts.likeness, 3),
        "cost": cost,
    }


def _look(look: gate.Look) -> dict[str, Any]:
    """Return the gains of a look; `standard_errors` is t, and `needed` the t that proves a gain."""
    gains = [asdict(gain) | {"standard_errors": gain.t} for gain in look.gains]
    responses = look.sides.candidate.outcomes.shape[1]
    return {"responses": responses, "needed": look.needed, "level": look.level, "gains": gains}


def _group(example: LabeledExample) -> str | None:
    group = example.details.get("group")
    return None if group is None else str(group)
