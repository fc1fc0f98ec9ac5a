r"""How often are verdicts wrong? Ten rewritings of each reference, and of a wrong answer to it.

    python tests/support/verdict_rates.py

A wrong answer is the reference with another digit, letter or sign. The table has, for each
verifier, the share of right answers that are judged wrong and of wrong ones that are judged right.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tempo_trainer.sampling.verifiers import Choice, Exact, Math, Numeric, Verifier, Words

CASES = Path(__file__).parents[1] / "unit/trainer/sampling/cases/verdicts.jsonl"
REWRITINGS = {
    "a box": r"So we get \boxed{%s}.",
    "a box in a formula": r"Thus the final answer is $\boxed{%s}$. I checked it twice.",
    "text in a box": r"\[\boxed{\text{%s}}\]",
    "a tag": "<think>maybe something else</think>\n<answer>%s</answer>",
    "hashes": "First we add.\n#### %s",
    "a phrase": "Let us think.\nThe answer is %s.",
    "a bold phrase": "Let us think.\n\n**Answer: %s**",
    "a line below a heading": "### Final Answer\n\n%s",
    "a last line": "We add the numbers.\n\n%s",
    "a phrase, then a remark": "The answer is: %s\n\nNote that other values fail.",
}
LATEX = re.compile(r"[\\^_{}]")
Rates = dict[str, tuple[int, int, int, int]]


def references() -> dict[str, list[str]]:
    """Return the different references of the cases by their verifier."""
    by_verifier: dict[str, set[str]] = defaultdict(set)
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        reference = case["reference"]
        one = reference[0] if isinstance(reference, list) else reference
        by_verifier[case["verifier"]].add(one)
    by_verifier["words"] = {"Yes", "No", "Paris", "Jane Austen", "the Beatles", "U.S.", "New York"}
    by_verifier["words"] |= {"photosynthesis", "1914-1918", "C++", "Mount Everest", "true", "blue"}
    return {verifier: sorted(texts) for verifier, texts in by_verifier.items()}


def rewritten(answer: str) -> Iterator[tuple[str, str]]:
    r"""Yield each rewriting's name with the response; LaTeX is put in no `\text{…}`."""
    for name, form in REWRITINGS.items():
        if name == "text in a box" and LATEX.search(answer):
            yield name, REWRITINGS["a box"].replace("%s", answer)
        else:
            yield name, form.replace("%s", answer)


def wrong(reference: str) -> str:
    """Return an answer that is wrong: with another digit, else another letter or word."""
    digits = list(re.finditer(r"\d", reference))
    if digits:
        last = digits[len(digits) // 2]
        other = str((int(last[0]) + 4) % 9 + 1)
        other = "7" if other == last[0] == "5" else other
        return reference[: last.start()] + other + reference[last.end() :]
    if re.fullmatch(r"\W*[A-Z]\W*", reference):
        return re.sub("[A-Z]", lambda m: "B" if m[0] == "A" else "A", reference)
    word = re.search(r"(?<!\\)\b[A-Za-z]{3,}", reference)
    if word and not reference.startswith("\\frac"):
        return reference[: word.start()] + "zebra" + reference[word.end() :]
    return f"{reference}+1"


def rates() -> Rates:
    """Return the numbers of a row of the table for each verifier."""
    verifiers: dict[str, Verifier] = {
        v.name: v for v in (Math(), Numeric(), Choice(), Exact(), Words())
    }
    table = {}
    for name, texts in references().items():
        verify = verifiers[name].verify
        right = [verify(r, [t], {}).correct for t in texts for _, r in rewritten(t)]
        faulty = [verify(r, [t], {}).correct for t in texts for _, r in rewritten(wrong(t))]
        table[name] = (len(right), right.count(False), len(faulty), faulty.count(True))
    return table


def main() -> None:
    """Print the table, then every wrong verdict."""
    print("| verifier | right answers | judged wrong | wrong answers | judged right |")
    print("|---|---|---|---|---|")
    for name, (right, false_negatives, faulty, false_positives) in rates().items():
        print(f"| {name} | {right} | {false_negatives} | {faulty} | {false_positives} |")


if __name__ == "__main__":
    main()
