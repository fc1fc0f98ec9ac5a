"""Print an upload's summary, and the lines of a file that the server refused."""

from collections.abc import Iterator, Sequence
from typing import Any

from tempo_client.cli.output import messages
from tempo_client.types import File, LabeledCounts


def print_file(file: File) -> None:
    """Print counts, verifiers with examples, and warnings."""
    counts = f"{file.filename}: {file.examples} questions, {file.held_out} held out"
    if file.labeled is None:  # a server of version 0.1
        messages.print(counts)
    else:
        messages.print(f"{counts}, {file.labeled.held_out} held out in all")
        messages.print(shown_gain(file.labeled))
        for text in missing_labels(file.labeled):
            messages.print(text)
    for text in verifier_lines(file.verifiers):
        messages.print(text)
    for warning in file.warnings:
        others = f" and {warning['count'] - 1} more" if warning["count"] > 1 else ""
        messages.print(f"line {warning['line']}{others}: {warning['message']}")


def verifier_lines(verifiers: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each verifier with its number of questions, and its examples below it."""
    for group in verifiers:
        yield f"verifier {group['verifier']} for {group['count']} questions, such as"
        for example in group["examples"]:
            question = " ".join(example["question"].split())
            answers = " or ".join(example["reference"]) or "no answer"
            yield f"  line {example['line']}: {question} → {answers}"


def shown_gain(labeled: LabeledCounts) -> str:
    """Return the smallest gain that the held-out questions can show."""
    if not labeled.held_out or labeled.smallest_gain is None:
        return f"{labeled.held_out} held-out questions"
    points = round(100 * labeled.smallest_gain)
    return f"{labeled.held_out} held-out questions can show a gain of {points} points"


def missing_labels(labeled: LabeledCounts) -> list[str]:
    """Say how many labels are missing before a version is promoted by itself; nothing if none."""
    if not labeled.missing:
        return []
    labels = "1 label is" if labeled.missing == 1 else f"{labeled.missing} labels are"
    return [f"{labels} missing: nothing is promoted by itself"]
