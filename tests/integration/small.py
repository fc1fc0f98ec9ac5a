"""What the tests of the loop share: small steps, and rows that a model meets."""

from tempo_trainer.demo import countdown

# Small steps, and a gate and a fitness check that let anything pass: their rules have unit tests.
SMALL = {
    "TEMPO_MAX_RESPONSE_TOKENS": "16",
    "TEMPO_GROUP_SIZE": "4",
    "TEMPO_WARM_UP_STEPS": "3",
    "TEMPO_WARM_UP_QUESTIONS": "32",
    "TEMPO_LABELED_PER_STEP": "16",
    "TEMPO_UNLABELED_PER_STEP": "8",
    "TEMPO_HELD_OUT_PER_STEP": "24",
    "TEMPO_GATE_SAMPLES": "4",
    "TEMPO_GATE_DELTA": "1",
    "TEMPO_GATE_PASS_K_MARGIN": "1",
    "TEMPO_GATE_ENTROPY_RATIO": "0",
    "TEMPO_FITNESS_AUROC": "0",
    "TEMPO_MINIMUM_ADVANTAGE_STD": "0",
    "TEMPO_THREADS": "1",
    "TEMPO_ROUND_QUESTIONS": "0",
}


def labeled_row(puzzle: countdown.Puzzle) -> dict[str, object]:
    """A reference that a model which hardly calculates meets now and then: a number near 40."""
    return {
        "question": puzzle.question,
        "answer": "40",
        "verifier": "numeric",
        "metadata": {"tolerance": 0.5},
    }
