"""Decide without a verifier's process where response and reference are the same text.

Such a verdict takes no time and cannot time out while the machine is busy.
"""

from collections.abc import Callable, Mapping

from tempo_storage.answers.final_answer import final_answer
from tempo_storage.answers.plain_text import folded, one_spaced
from tempo_trainer.sampling.verifying.contract import References, Verdict

# Verifiers for which equal texts are a correct answer, and the form in which they are compared. An
# operator's own verifier may see it otherwise.
FORMS: Mapping[str, Callable[[str], str]] = {
    "math": one_spaced,
    "numeric": one_spaced,
    "choice": one_spaced,
    "exact": folded,
    "words": folded,
}


def equal_text(verifier: str, response: str, reference: References) -> Verdict | None:
    """Return the verdict of a response whose final answer is the text of a reference, else None."""
    form = FORMS.get(verifier)
    if form is None:
        return None
    answer = final_answer(response).text
    text = form(answer)
    if text and text in map(form, reference):
        return Verdict(True, answer)
    return None
