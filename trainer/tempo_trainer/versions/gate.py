"""The gate: decide from answers to held-out questions whether a candidate may serve users.

A test compares the candidate with the serving version and with the base, question by question, at
the users' own decoding. It has one or two looks:

    look     responses to each question     proven if t of the mean paired gain exceeds
    first    k                              the quantile at FIRST_LEVEL
    second   k + 4k                         the quantile at SECOND_LEVEL

t is the gain divided by its standard error over questions. The second look is made if the first
leaves the question open: t is at least FUTILE, and the gain is not proven. Both levels together are
0.05 / MAX_TESTS. So the chance that a set of held-out questions promotes a candidate that is no
better, in any of its MAX_TESTS tests, is at most 5 %. This is a Bonferroni bound, which
`make simulation` measures. Another set starts the count anew.

A proven gain is not enough. A candidate is refused, too, if the questions cannot show a gain
(`doubts`), or if it is worse in another respect (`vetoes`). Nothing here asks a model.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.algorithm.intervals import standard_error, t_interval, t_quantile
from tempo_trainer.algorithm.metrics import Array
from tempo_trainer.versions.answers import PASS_K, Sides

MAX_TESTS = 50  # for one set of held-out questions
FIRST_LEVEL = 0.0001
SECOND_LEVEL = 0.0009
LEVEL = FIRST_LEVEL + SECOND_LEVEL  # of a test
SECOND_FACTOR = 4  # the second look draws so many times the responses of the first
FUTILE = 1.0  # standard errors; below it a second look would hardly prove the gain
ONE_SIDED = 0.05  # the share beyond a bound of a veto
GREEDY_LOSS = 0.03
PASS_LOSS = 0.12
GROUP_LOSS = 0.10
MIN_GROUP = 16  # held-out questions of a group that can veto
SAME_ANSWER = 0.9  # share of right answers with one text, from which on a constant would do
NO_ERROR = 1e-9  # a smaller standard error is one of rounding
RESTART_TESTS = 10  # in a row without a promotion, after which the policy starts again
MAX_WAIT_ROUNDS = 16


def wait_rounds(refusals: int) -> int:
    """Return in how many rounds the next test comes after so many refusals in a row.

    1, 2, 4, 8, at most 16: small gains add up meanwhile, and tests are few.
    """
    return min(1 << max(0, refusals - 1), MAX_WAIT_ROUNDS)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a test beside the answers; lists are in the order of the answers' questions."""

    decoding: Decoding
    """The users' own."""
    groups: Sequence[str | None]
    """`metadata.group` of each question."""
    gaps: Sequence[str] = ()
    """The reasons why an operator must decide, whatever the answers say; each with its remedy."""


class AskAll(Protocol):
    """Draws responses `start` to `start + n` of each side to all held-out questions."""

    def __call__(self, decoding: Decoding, start: int, n: int) -> Sides: ...


@dataclass(frozen=True, slots=True)
class Gain:
    """The candidate's mean gain of accuracy over a rival, paired by question."""

    rival: str
    mean: float
    standard_error: float
    low: float
    """Bounds of the two-sided 95 % interval over questions."""
    high: float

    @classmethod
    def over(cls, rival: str, differences: Array) -> "Gain":
        """Return the gain from the difference on each question."""
        interval = t_interval(differences, tail=0.025)
        error = standard_error(differences)
        return cls(rival, interval.mean, error, interval.low, interval.high)

    @property
    def t(self) -> float:
        """The gain in standard errors; -inf where the standard error is unknown or 0."""
        return self.mean / self.standard_error if self.standard_error > NO_ERROR else -np.inf


@dataclass(frozen=True, slots=True)
class Look:
    """A comparison at the users' decoding, with the level that its gains must exceed."""

    sides: Sides
    level: float

    @property
    def gains(self) -> list[Gain]:
        """The gain over each rival, the smallest t first."""
        candidate = self.sides.candidate.accuracy
        rivals = self.sides.rivals().items()
        gains = [Gain.over(name, candidate - rival.accuracy) for name, rival in rivals]
        return sorted(gains, key=lambda gain: gain.t)

    @property
    def needed(self) -> float:
        """The t that each gain must exceed."""
        questions = len(self.sides.candidate.outcomes)
        return t_quantile(self.level, questions - 1) if questions > 1 else np.inf


def make_looks(ask: AskAll, decoding: Decoding, k: int, greedy: Sides) -> list[Look]:
    """Make the first look, and a second one if the gain is neither proven nor below FUTILE."""
    if decoding.is_greedy:  # another response would be the same one
        return [Look(greedy, LEVEL)]
    first = Look(ask(decoding, 0, k), FIRST_LEVEL)
    least = first.gains[0].t
    if least < FUTILE or least > first.needed:
        return [first]
    more = ask(decoding, k, SECOND_FACTOR * k)
    return [first, Look(first.sides.extended(more), SECOND_LEVEL)]


def doubts(sides: Sides, decoding: Decoding) -> Iterator[str]:
    """Yield why these questions cannot show a gain, each with its remedy."""
    questions = len(sides.candidate.outcomes)
    base = sides.base.accuracy
    if base.min() == 1:
        yield (
            f"the base answers all {questions} held-out questions right, so that no gain can show;"
            " upload harder questions"
        )
    if max(base.max(), sides.serving.accuracy.max(), sides.candidate.accuracy.max()) == 0:
        yield _all_wrong(sides, decoding)
    right = sides.candidate.right_texts
    text, count = Counter(right).most_common(1)[0] if right else ("", 0)
    if count and count >= SAME_ANSWER * len(right):
        yield (
            f"{count} of the candidate's {len(right)} right answers are {text[:60]!r}: a model that"
            " always says this would be right as often; upload questions with other answers"
        )


def _all_wrong(sides: Sides, decoding: Decoding) -> str:
    share = float(sides.candidate.truncated.mean())
    text = f"no held-out question is answered right ({share:.0%} of the responses are cut)"
    if share > 0.5:
        users = decoding.max_tokens
        also = "" if users is None else f", or let users ask for more than {users} tokens"
        return f"{text}; raise TEMPO_MAX_RESPONSE_TOKENS{also}"
    return f"{text}; upload easier questions, and check that their verifier reads the answers"


def unproven(look: Look) -> str:
    """Return why the least gain of the last look is not proven; "" if it is."""
    gain = look.gains[0]
    if gain.t > look.needed:
        return ""
    worst = min(look.gains, key=lambda gain: gain.mean)
    if worst.mean <= 0:
        return f"no gain: {_points(worst.mean)} over {worst.rival}"
    gained = f"{_points(gain.mean)} over {gain.rival}"
    if not gain.standard_error > NO_ERROR:
        return (
            f"the gain is the same on every question ({gained}), so that its standard error is"
            " unknown; upload more questions of other kinds"
        )
    return (
        f"the gain is not proven: {gained} are {gain.t:.1f} standard errors,"
        f" {look.needed:.1f} are needed; more held-out questions prove smaller gains"
    )


def vetoes(users: Sides, greedy: Sides, plain: Sides, facts: Facts) -> Iterator[str]:
    """Yield a sentence for each limit that the candidate violates."""
    loss = float((greedy.serving.accuracy - greedy.candidate.accuracy).mean())
    if loss > GREEDY_LOSS:
        yield (
            f"greedy answers lose {_points(loss, '')} against the serving version, more than"
            f" {_points(GREEDY_LOSS, '')}"
        )
    several = plain if facts.decoding.is_greedy else users
    low = t_interval(several.candidate.pass_at_8 - several.base.pass_at_8, tail=ONE_SIDED).low
    if low <= -PASS_LOSS:
        yield (
            f"pass@{PASS_K} may lose {_points(-low, '')} against the base, and fewer than"
            f" {_points(PASS_LOSS, '')} are allowed"
        )
    change = users.candidate.accuracy - users.serving.accuracy
    for group, count in Counter(facts.groups).items():
        if group is None or count < MIN_GROUP:
            continue
        members = np.array([other == group for other in facts.groups])
        high = t_interval(change[members], tail=ONE_SIDED).high
        if high < -GROUP_LOSS:
            yield (
                f"the group {group[:60]!r} of {count} questions loses at least"
                f" {_points(-high, '')} against the serving version"
            )


def _points(share: float, sign: str = "+") -> str:
    return f"{100 * share:{sign}.1f} points"


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a candidate, its reason, and the answers behind it."""

    promote: bool
    counts: bool
    """True if the gate itself decided, so that this test counts."""
    by_hand: bool
    """True if an operator must decide, and nothing is known to speak against the version."""
    reason: str
    looks: Sequence[Look]
    greedy: Sides
    plain: Sides

    @property
    def users(self) -> Sides:
        """All answers at the users' decoding."""
        return self.looks[-1].sides

    @property
    def is_worse(self) -> bool:
        """True if the candidate is worse than the serving version by a one-sided 95 % bound."""
        change = self.users.candidate.accuracy - self.users.serving.accuracy
        return t_interval(change, tail=ONE_SIDED).high < 0


def decide(ask: AskAll, facts: Facts, *, k: int) -> Decision:
    """Test a candidate. The first look has `k` responses to each question.

    All versions also answer at temperature 1: for the report, and for the veto on pass@8 where
    users sample greedily. Users' limit of tokens holds for all answers.
    """
    plain_decoding = replace(PLAIN, max_tokens=facts.decoding.max_tokens)
    greedy = ask(replace(plain_decoding, temperature=0.0), 0, 1)
    looks = make_looks(ask, facts.decoding, k, greedy)
    users = looks[-1].sides
    plain = users if facts.decoding == plain_decoding else ask(plain_decoding, 0, k)
    objections = list(vetoes(users, greedy, plain, facts))
    reasons = [
        *facts.gaps,
        *doubts(users, facts.decoding),
        *filter(None, [unproven(looks[-1])]),
        *objections,
    ]
    return Decision(
        promote=not reasons,
        counts=not facts.gaps,
        by_hand=bool(facts.gaps) and not objections,
        reason="; ".join(reasons) or f"proven: {describe(looks[-1])}",
        looks=looks,
        greedy=greedy,
        plain=plain,
    )


def describe(look: Look) -> str:
    """Return the gains of a look in words, with their 95 % intervals over questions."""
    parts = [
        f"{_points(gain.mean)} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] over {gain.rival}"
        for gain in look.gains
    ]
    least = look.gains[0].t
    count = len(look.sides.candidate.outcomes)
    return (
        f"{', '.join(parts)} on {count} held-out questions, {least:.1f} standard errors where"
        f" {look.needed:.1f} are needed"
    )
