"""Generate references with right and wrong answers, for the property tests of verifiers."""

import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

NAMES = ["Paris", "London", "Oslo", "Ada", "Grace", "Newton", "Everest", "Amazon", "Mozart", "Bach"]
UNITS = [("m", "cm"), ("kg", "g"), ("hours", "minutes"), ("km/h", "m/s"), ("cm^2", "cm^3")]
WRAPPERS = (
    r"\boxed{%s}",
    r"Thus $\boxed{%s}$.",
    "<answer>%s</answer>",
    "#### %s",
    "The answer is %s.",
    "**Answer: %s**",
    "### Final Answer\n\n%s",
    "First, 17 + 4 = 21.\n\nFinal answer: %s",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference, a response, and whether it is right."""

    reference: str
    response: str
    correct: bool
    metadata: dict[str, Any] = field(default_factory=dict)


def pairs(kind: str, count: int) -> Iterator[Pair]:
    """Yield `count` right and `count` wrong answers of a verifier, always the same ones."""
    source = random.Random(kind)
    generate = GENERATORS[kind]
    for _ in range(count):
        yield from generate(source)


def _wrapped(source: random.Random, text: str) -> str:
    return source.choice(WRAPPERS).replace("%s", text)


# Numbers ----------------------------------------------------------------------------------------


def _grouped(value: int, separator: str) -> str:
    return f"{value:,}".replace(",", separator)


def _integer_forms(value: int) -> list[str]:
    sign = "-" if value < 0 else ""
    forms = [str(value), f"{value}.0", f"{sign}${abs(value)}", f"{value:e}".replace("e+0", "e")]
    forms += [_grouped(value, ","), _grouped(value, "{,}"), _grouped(value, r"\,")]
    forms = [form for form in forms if "e" not in form or Fraction(form) == value]
    return [*forms, str(value).replace("-", "−"), rf"\frac{{{2 * value}}}{{2}}"]


def _fraction_forms(value: Fraction) -> list[str]:
    top, bottom = value.numerator, value.denominator
    forms = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}"]
    forms += [rf"\frac{{{3 * top}}}{{{3 * bottom}}}"]
    if top > bottom and bottom > 1:
        whole, rest = divmod(top, bottom)
        forms += [rf"{whole}\frac{{{rest}}}{{{bottom}}}", f"{whole} {rest}/{bottom}"]
    return forms


def numeric(source: random.Random) -> Iterator[Pair]:
    """Yield an integer, a fraction or a decimal number, right and wrong."""
    kind = source.randrange(3)
    if kind == 0:
        value = source.randint(-(10 ** source.randint(1, 9)), 10 ** source.randint(1, 9))
        forms, others = _integer_forms(value), _integer_forms(value + source.choice([-1, 1, 10]))
    elif kind == 1:
        fraction = Fraction(source.randint(1, 60), source.randint(2, 40))
        forms = _fraction_forms(fraction)
        others = _fraction_forms(fraction + Fraction(1, source.randint(2, 30)))
    else:
        cents = source.randint(1, 10**6)
        forms = [f"{cents / 100:.2f}", f"${cents / 100:,.2f}", f"{cents / 100}", f"{cents}e-2"]
        others = [f"{(cents + 1) / 100:.2f}", f"-{cents / 100:.2f}", f"{cents / 10:.2f}"]
    reference = source.choice(forms)
    yield Pair(reference, _wrapped(source, source.choice(forms)), True)
    yield Pair(reference, _wrapped(source, source.choice(others)), False)


# Mathematics ------------------------------------------------------------------------------------


def mathematics(source: random.Random) -> Iterator[Pair]:
    """Yield an expression, list, tuple, interval, equation or measure, right and wrong."""
    shape = source.choice(MATHEMATICS)
    reference, right, wrong = shape(source)
    if "\n" not in right:
        yield Pair(reference, source.choice(WRAPPERS[:6]).replace("%s", right), True)
        yield Pair(reference, source.choice(WRAPPERS[:6]).replace("%s", wrong), False)


def _polynomial(source: random.Random) -> tuple[str, str, str]:
    a, b, c, d = (source.choice([-5, -4, -3, -2, 2, 3, 4, 5, 6]) for _ in range(4))
    x = source.choice("xynt")
    expanded = f"{a * c}{x}^2{a * d + b * c:+d}{x}{b * d:+d}"
    wrong = f"{a * c}{x}^{{2}}{a * d + b * c + 1:+d}{x}{b * d:+d}"
    return expanded, f"({a}{x}{b:+d})({c}{x}{d:+d})", wrong


def _root(source: random.Random) -> tuple[str, str, str]:
    a, b = source.randint(2, 9), source.choice([2, 3, 5, 6, 7])
    return rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b}}}", rf"{a + 1}\sqrt{{{b}}}"


def _power(source: random.Random) -> tuple[str, str, str]:
    base, exponent = source.randint(2, 9), source.randint(20, 90)
    form = rf"\frac{{1}}{{{base}^{{{exponent}}}}}"
    return form, f"{base}^{{-{exponent}}}", f"{base}^{{-{exponent + 1}}}"


def _scientific(source: random.Random) -> tuple[str, str, str]:
    digits, exponent = source.randint(11, 99) / 10, source.randint(-30, 30)
    other = exponent + source.choice([-1, 1])
    return f"{digits}e{exponent}", rf"{digits} \times 10^{{{exponent}}}", f"{digits}e{other}"


def _set(source: random.Random) -> tuple[str, str, str]:
    numbers = source.sample(range(-20, 30), source.randint(2, 5))
    shuffled = source.sample(numbers, len(numbers))
    text = ", ".join(map(str, shuffled))
    wrong = ", ".join(map(str, [*shuffled[:-1], shuffled[-1] + 61]))
    return ", ".join(map(str, numbers)), source.choice([text, rf"\{{{text}\}}"]), wrong


def _tuple(source: random.Random) -> tuple[str, str, str]:
    a, b = source.sample(range(1, 50), 2)
    return f"({a}, {b})", rf"\left({2 * a}/2,\,{b}\right)", f"({b}, {a})"


def _interval(source: random.Random) -> tuple[str, str, str]:
    low, high = sorted(source.sample(range(-30, 30), 2))
    left, right = source.choice("[("), source.choice("])")
    below = r"\le" if left == "[" else "<"
    above = r"\le" if right == "]" else "<"
    other = "(" if left == "[" else "["
    return (
        f"{left}{low},{high}{right}",
        f"{low} {below} x {above} {high}",
        f"{other}{low},{high}{right}",
    )


def _equation(source: random.Random) -> tuple[str, str, str]:
    a, b, c, k = (source.choice([2, 3, 4, 5, 7]) for _ in range(4))
    reference = f"{a}x+{b}y-{c}=0"
    return reference, f"{a * k}x+{b * k}y={c * k}", f"{a * k}x+{b * k}y={c * k + 1}"


def _measure(source: random.Random) -> tuple[str, str, str]:
    value = source.randint(2, 400)
    unit, other = source.choice(UNITS)
    right = source.choice([str(value), rf"{value}\text{{ {unit}}}", f"{value} {unit}"])
    wrong = source.choice([f"{value} {other}", rf"{value}\text{{ {other}}}", f"{value + 1} {unit}"])
    return f"{value} {unit}", right, wrong


def _word(source: random.Random) -> tuple[str, str, str]:
    word, other = source.sample(NAMES, 2)
    letters = "".join(source.sample(word, len(word)))
    wrong = other if letters.casefold() == word.casefold() else source.choice([other, letters])
    return word, rf"\text{{{word.lower()}}}", wrong


MATHEMATICS: tuple[Callable[[random.Random], tuple[str, str, str]], ...] = (
    *(_polynomial, _root, _power, _scientific, _set, _tuple, _interval, _equation, _measure),
    _word,
)


# Choices and texts ------------------------------------------------------------------------------

CHOICES = (
    "%s", "(%s)", "**%s**", "%s.", "Answer: %s", "The answer is %s.", "the correct option is (%s)",
    r"\boxed{%s}", r"\boxed{\textbf{(%s) } 12}", "Answer: %s\n\nOption %o is wrong.",
    "The answer is %s. Note that %o is a tempting distractor.", "I would go with (%s)",
    "The answer is %o. No: the answer is %s, since option %o fails.", "<answer>%s</answer>",
    "(%o) is wrong, thus it must be (%s)", "The best choice is\n\n%s", "%s is correct.",
    "<think>Answer: %o</think>\nIt must be\n%s", "Answer: %s, not %o", "ANSWER: %s",
)  # fmt: skip
NO_CHOICES = ("I do not know.", "Because it is late.", "%o or %p", "f(x) = 3", "The answer is %o.")


def choice(source: random.Random) -> Iterator[Pair]:
    """Yield a letter and another one."""
    letter, other = source.sample(string.ascii_uppercase, 2)
    form = source.choice(CHOICES)
    yield Pair(letter, form.replace("%s", letter).replace("%o", other), True)
    wrong = source.choice([*CHOICES, *NO_CHOICES])
    swapped = wrong.replace("%s", other).replace("%p", letter)
    yield Pair(letter, swapped.replace("%o", letter if "%s" in wrong else other), False)


TEXTS = (
    "%s", "**%s**", '"%s"', "Answer: %s", "The answer is %s.", r"\boxed{\text{%s}}", "`%s`",
    "<answer>\n%s\n</answer>", "<think>%o</think>%s", "It is %s.", "Answer: “%s”!", "#### %s",
)  # fmt: skip


def texts(source: random.Random) -> Iterator[Pair]:
    """Yield a name of one to three words and another one."""
    count = source.randint(1, 3)
    name = " ".join(source.sample(NAMES, count))
    other = " ".join([*source.sample(NAMES, count), "Street"])
    form = source.choice(TEXTS)
    dressed = source.choice([name, name.upper(), name.lower(), name.replace(" ", "  ")])
    yield Pair(name, form.replace("%s", dressed).replace("%o", other), True)
    yield Pair(name, form.replace("%s", other).replace("%o", name), False)


def _json(source: random.Random, depth: int) -> Any:
    kind = source.randrange(5 if depth else 3)
    if kind == 0:
        return source.randint(-99, 99)
    if kind == 1:
        return source.choice(NAMES)
    if kind == 2:
        return source.choice([True, False, None])
    size = source.randint(1, 4)
    if kind == 3:
        return [_json(source, depth - 1) for _ in range(size)]
    return {name: _json(source, depth - 1) for name in source.sample(NAMES, size)}


def _shuffled(source: random.Random, value: Any) -> Any:
    if isinstance(value, dict):
        names = source.sample(sorted(value), len(value))
        return {name: _shuffled(source, value[name]) for name in names}
    return [_shuffled(source, item) for item in value] if isinstance(value, list) else value


def json_equal(source: random.Random) -> Iterator[Pair]:
    """Yield an object with its keys in another order, and one with another value."""
    value = {"first": _json(source, 3), "second": _json(source, 2), "count": source.randint(2, 99)}
    form = source.choice(["%s", "```json\n%s\n```", "Here it is:\n%s", "<answer>%s</answer>"])
    indent = source.choice([None, 2])
    right = json.dumps(_shuffled(source, value), indent=indent)
    wrong = json.dumps(value | {"count": source.choice([True, 0.5, str(value["count"]), [1]])})
    yield Pair(json.dumps(value), form.replace("%s", right), True)
    yield Pair(json.dumps(value), form.replace("%s", wrong), False)


def regex(source: random.Random) -> Iterator[Pair]:
    """Yield a code that a pattern matches, and one that it does not."""
    letters = "".join(source.choices(string.ascii_uppercase, k=3))
    digits = "".join(source.choices(string.digits, k=4))
    pattern = source.choice(
        [rf"{letters}-\d{{4}}", rf"[A-Z]{{3}}-{digits}", rf"(?i){letters}-{digits}"]
    )
    yield Pair(pattern, _wrapped(source, f"{letters}-{digits}"), True)
    yield Pair(pattern, _wrapped(source, f"{letters}-{digits}0"), False)


GENERATORS: dict[str, Callable[[random.Random], Iterator[Pair]]] = {
    "numeric": numeric,
    "math": mathematics,
    "choice": choice,
    "exact": texts,
    "words": texts,
    "json_equal": json_equal,
    "regex": regex,
}
