"""Let versions answer the held-out questions under vLLM, and make the gate's report."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.decoding import Decoding
from tempo_storage.labeled.split import MIN_HELD_OUT, missing_labels, smallest_gain
from tempo_storage.ledger.models import LabeledExample
from tempo_storage.question_hash import text_of
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions import gate
from tempo_trainer.versions.answers import AnswerBook, Comparison, figures
from tempo_trainer.versions.domain import MAX_TEXTS, likeness
from tempo_trainer.worker_settings import WorkerSettings

LEAST_LIKENESS = 0.5  # see domain.py


@dataclass(frozen=True, slots=True)
class TestedCandidate:
    """The gate's decision on a candidate, and the report that people read."""

    decision: gate.Decision
    report: dict[str, Any]
    held_out: str
    """Digest of the questions that were asked; others may be uploaded meanwhile."""


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

    `round_tokens` are the response tokens that the round itself sampled. At least one held-out
    question leaves room for a response.
    """
    started = time.monotonic()
    with sessions.read() as s:
        serving = ledger.versions.serving(s).version
        held_out = ledger.labeled.held_out(s, limit=settings.gate_questions)
        labeled = [*held_out, *ledger.labeled.examples(s, "train", limit=MAX_TEXTS)]
        decoding = ledger.pool.users_decoding(s, responses.default_decoding)
        counts = ledger.labeled.count(s)
        messages = ledger.pool.newest_messages(s, MAX_TEXTS)
    examples = responses.fitting(held_out)
    book.open(examples, (BASE, serving), decoding)
    like = likeness(_questions(messages), _questions([row.messages for row in labeled]))
    too_long = len(held_out) - len(examples)
    gaps = [*_missing(len(examples), len(held_out), missing_labels(**counts)), *_unlike(like)]
    facts = gate.Facts(decoding, [_group(example) for example in examples], gaps)
    comparison = Comparison(book, examples, serving, candidate)
    decision = gate.decide(comparison, facts, k=settings.gate_samples)
    book.forget(candidate)
    cost = {
        "responses": book.drawn_responses,
        "tokens": book.drawn_tokens,
        "round_tokens": round_tokens,
        "seconds": round(time.monotonic() - started, 1),
    }
    details = {
        "too_long": too_long,
        "missing_labels": missing_labels(**counts),
        "likeness": round(like, 3),
        "cost": cost,
    }
    digest = ledger.labeled.digest(held_out)
    return TestedCandidate(decision, report(decision, decoding) | details, digest)


def _missing(fitting: int, held_out: int, labels: int) -> list[str]:
    """Return why these questions are too few for a promotion, in a list; empty if they suffice.

    `held_out` are all that TEMPO_GATE_QUESTIONS allows, `labels` are missing in the ledger.
    """
    if fitting >= MIN_HELD_OUT:
        return []
    remedy = (
        f"{held_out - fitting} are too long: raise vLLM's --max-model-len, or lower"
        " TEMPO_MAX_RESPONSE_TOKENS"
    )
    if labels:
        remedy = f"upload {labels} more labeled questions"
    elif held_out < MIN_HELD_OUT:
        remedy = f"raise TEMPO_GATE_QUESTIONS to {MIN_HELD_OUT}"
    return [f"{fitting} held-out questions are asked, too few for a promotion by itself; {remedy}"]


def _unlike(like: float) -> list[str]:
    """Return that users ask other questions than the labeled ones, in a list, or nothing."""
    if like >= LEAST_LIKENESS:
        return []
    return [
        "most of the users' questions are unlike the labeled ones (likeness"
        f" {like:.2f}, below {LEAST_LIKENESS}), so that a gain on these says nothing about them;"
        " upload labeled questions of the kind that users ask"
    ]


def _questions(chats: Iterable[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the last message of each chat, which is the user's."""
    return [text_of(messages[-1]["content"]) for messages in chats]


def report(decision: gate.Decision, decoding: Decoding) -> dict[str, Any]:
    """Return what people read about a test: the figures behind the decision, as JSON."""
    users = decision.users
    questions, responses = users.candidate.outcomes.shape
    return {
        "promote": decision.promote,
        "reason": decision.reason,
        "questions": questions,
        "smallest_gain": smallest_gain(questions),
        "decoding": asdict(decoding),
        "responses": responses,
        "looks": [_look(look) for look in decision.looks],
        "accuracy": {
            role: figures(
                getattr(users, role), getattr(decision.greedy, role), getattr(decision.plain, role)
            )
            for role in ("base", "serving", "candidate")
        },
        "max_tests": gate.MAX_TESTS,
    }


def _look(look: gate.Look) -> dict[str, Any]:
    """Return the gains of a look; `standard_errors` is t, and `needed` the t that proves a gain."""
    gains = [asdict(gain) | {"standard_errors": gain.t} for gain in look.gains]
    responses = look.sides.candidate.outcomes.shape[1]
    return {"responses": responses, "needed": look.needed, "level": look.level, "gains": gains}


def _group(example: LabeledExample) -> str | None:
    group = example.details.get("group")
    return None if group is None else str(group)
