"""The verifiers `exact` and `words` compare texts."""

import re
from collections.abc import Iterator

from tempo_storage.answers.final_answer import FinalAnswer, Mark, final_answer, visible
from tempo_storage.answers.number_words import NUMBER_WORDS
from tempo_storage.answers.numbers import only_number
from tempo_storage.answers.plain_text import folded
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict

MAX_SENTENCE_CHARACTERS = 1000
MIN_EXPLANATION = 4  # words
# "The argument is valid." names "valid".
COPULA = re.compile(
    r".*\b(?:[Ii]t['’]s|(?:is|are|was|were)\s+\w+\s+(?:in|by|at|on)|is|are|was|were|called|named|by"
    r"|(?<!could )(?<!might )(?<!may )be|(?i:\A(?:label|sentiment|category)(?=:)))\b:?\s+(.+)",
    re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[^\s.][^\s.])[.!?;](?:\s|$)|\n")
# "Paris, because …" names "Paris"; "Paris, or London" and "Paris. No, London" name nothing.
CLAUSE = re.compile(
    r"\s*(?:[,;:(]|[.!]\s|\s-\s|\s[–—]\s|\bbecause\b|\bsince\b|\bas\b|\bwhich\b|\bwho\b|\bso\b)\s*"
)
SUBJECT = re.compile(r"\s(?:is|are|was|were)\s+(?!(?:not|no|wrong|incorrect|false)\b|n't)")
HEDGE = re.compile(
    r"\b(?:or|nor|either|maybe|perhaps|possibly|not sure|no|wait|actually|rather|instead|sorry)\b"
    r"|\bcorrection\b|\bon second thought\b"
)
ARTICLE = re.compile(r"^(?:(?:the|a|an)\s+(?=\S)|in\s+(?=\d{4}$))")
DOTTED = re.compile(r"(?<=\b[^\W\d])\.(?=[^\W\d]\b)")  # U.S. is US
NO_WORD = re.compile(r"[^\w\s%$€£+#&.-]|(?<!\d)[.-]|[.-](?!\d)|(?<![^\W_])_|_(?![^\W_])")


class Exact:
    """The answer is one of the references, letter for letter after normalisation."""

    name = "exact"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is empty."""
        return None if all(map(folded, reference)) else "an empty reference matches nothing"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the final answer; without a mark, also the end of "… is valid."."""
        answer = final_answer(response)
        accepted = set(map(folded, reference)) - {""}
        correct = any(folded(text) in accepted for text in readings(answer))
        return Verdict(correct, answer.text or None)


class Words:
    """The answer is one of the references, also with an article, punctuation or a reason after it.

    The default for answers that are neither mathematics nor a choice: names, yes and no, terms.
    """

    name = "words"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference has no letter, figure or sign of its own."""
        faulty = [one for one in reference if not _words(one)]
        return (
            f"no word in {faulty[0]!r}; give a text, or use the verifier exact" if faulty else None
        )

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the words of the final answer."""
        answer = final_answer(response)
        accepted = {_words(one) for one in reference} - {""}
        texts = [*readings(answer), _before_explanation(response, answer)]
        correct = any(_words(text) in accepted for text in texts) or (
            not answer.is_exact
            and any(leading_words(text, answer.mark) in accepted for text in texts)
        )
        return Verdict(correct, answer.text or None)


def readings(answer: FinalAnswer) -> Iterator[str]:
    """Yield the texts that may be the answer."""
    yield answer.text
    if answer.mark is Mark.LAST_LINE and len(answer.text) <= MAX_SENTENCE_CHARACTERS:
        *_, sentence = [s for s in SENTENCE_END.split(answer.text) if s.strip(" *_")] or [""]
        yield sentence
        if match := COPULA.fullmatch(sentence):
            yield match[1]


def _before_explanation(response: str, answer: FinalAnswer) -> str:
    """Return the first line of a response that ends with an explanation of it, else no text."""
    first, _, rest = visible(response).partition("\n")
    is_explained = answer.mark is Mark.LAST_LINE and len(answer.text.split()) >= MIN_EXPLANATION
    takes_back = HEDGE.search(rest[-MAX_SENTENCE_CHARACTERS:].casefold())
    return first[:MAX_SENTENCE_CHARACTERS] if is_explained and not takes_back else ""


def leading_words(text: str, mark: Mark) -> str | None:
    """Return the words before the first clause: of "Paris, because it …" they are "paris".

    In an unmarked answer the subject counts, too: "Paris is the capital of France."
    """
    text = folded(text[:MAX_SENTENCE_CHARACTERS])
    subject = SUBJECT.search(text) if mark is Mark.LAST_LINE else None
    clause = CLAUSE.search(text, 0, subject.start() if subject else len(text)) or subject
    if clause is None or HEDGE.search(text, clause.start()):
        return None
    return _words(text[: clause.start()])


def _words(text: str) -> str:
    """Return the words of a text without article and punctuation, figures as digits."""
    text = DOTTED.sub("", folded(text))
    if not (bare := " ".join(NO_WORD.sub(" ", text).split())):
        return text
    text = ARTICLE.sub("", bare)
    if text in NUMBER_WORDS:
        return str(NUMBER_WORDS[text])
    number = only_number(text)
    return str(number.values[0]) if number is not None and not number.is_percent else text
