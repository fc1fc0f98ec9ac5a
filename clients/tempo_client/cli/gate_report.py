"""The gate's report on a version, as rows for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from tempo_client.cli.output import sampling

Row = tuple[str, str]
ROLES = ("base", "serving", "candidate")
FIGURES = {
    "users": "as users sample",
    "greedy": "greedy",
    "plain": "temperature 1",
    "majority": "majority",
    "pass_at_8": "pass@8",
}
"""The figures of a report by their names in it, in the order in which people read them."""


def decision(report: Mapping[str, Any]) -> str:
    """Return the gate's reason in one line."""
    reason = str(report.get("reason", "-"))
    return _older_decision(report, reason) if "against_base" in report else reason


def rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the decision, the test behind it, each accuracy, and the cost."""
    yield "gate", decision(report)
    if "accuracy" not in report:
        return
    yield "test", _test(report)
    accuracy = report["accuracy"]
    for name, text in FIGURES.items():
        shares = [f"{role} {accuracy[role][name]:.3f}" for role in ROLES]
        yield f"accuracy, {text}", ", ".join(shares)
    tokens = [f"{role} {accuracy[role]['mean_tokens']:.0f}" for role in ROLES]
    yield "tokens a response", ", ".join(tokens)
    yield "cost", _cost(report["cost"])


def _test(report: Mapping[str, Any]) -> str:
    number = "not counted"
    if report["tests"] is not None:
        number = f"number {report['tests']} of {report['max_tests']}"
    answers = f"{report['responses']} responses"
    if report["responses"] == 1:
        answers = "one answer, since users sample greedily,"
    return (
        f"{number}: {answers} to each of {report['questions']} held-out questions, at"
        f" {sampling(**report['decoding'])}"
    )


def _cost(cost: Mapping[str, float]) -> str:
    times = ""
    if cost["round_tokens"]:
        times = f" ({cost['tokens'] / cost['round_tokens']:.1f} times the round's own)"
    return (
        f"{cost['responses']:,} responses, {cost['tokens']:,} tokens{times},"
        f" {cost['seconds']:.0f} s"
    )


def _older_decision(report: Mapping[str, Any], reason: str) -> str:
    """Return the reason of a report of version 0.1, with the difference that it measured."""
    candidate = report["candidate_avg_at_k"]
    base = report["base_avg_at_k"]
    difference = report["against_base"]
    return (
        f"{reason}; avg@{report['k']} {candidate:.3f}, base {base:.3f} "
        f"({difference['mean']:+.3f}, at least {difference['low']:+.3f}) "
        f"on {report['questions']} held-out questions"
    )
