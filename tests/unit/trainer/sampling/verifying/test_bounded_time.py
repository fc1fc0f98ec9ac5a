"""No response takes a verifier long: neither a long text nor an enormous number."""

import time

from text_verifiers import VERIFIERS

from tempo_trainer.sampling.verifiers import Math
from tempo_trainer.sampling.verifying.equal_text import equal_text

SECONDS = 0.5  # of processor time for all verifiers together; most take a hundredth
PIECES = (
    r"\boxed{", r"\text{", "answer ", "answer is ", "$", "$a$ ", "**", "(A) ", "x ", "is ", "\n",
    "#### \n", "<answer>", "<think>", "</", "1 ", "1,", "1.1.", r"\{", "{", "*", "_", "`", "<b>",
    ": ", "a. ", "Question: \n", r"\(a", "[", '{"a":', "```json\n", r"\boxed{1} or ", "answer A ",
    "\\begin{pmatrix}", "not ", "<answer>1</answer>", "the answer is not ", "- ", "A.",
)  # fmt: skip
INSIDE = (
    "1,", "(", "(1,", "x=", r"\frac{", "-", r"\sqrt", "2^", "|", " ", "!", r"\{x|", "a_", "1:",
    " mod ", r"\pm", r"\pm 1,", "⟦", "or ", "1 or ", "12 cm ", "<", "x<", "a", "abcd ", "9",
    r"\text{a}", "1 ", "{", r"\overline{", "1.", "°", r"\mathrm{m^{", "1+", "x*", r"\sin ", "1/",
    r"\;", r"\, ", r"\text{}", r"\quad ", "$ ",
)  # fmt: skip
ENORMOUS = (
    "9^{9^{9^{9}}}", "99999999!", "3^{3^{3^{3}}}", r"\binom{100000000}{50000000}",
    "2999!^{3}/2998!", "99999!!", r"\pi!", "(5/2)!", "((9!)!)!",
    r"\sum_{k=1}^{100000000}\frac{1}{k}", r"\sum_{k=1}^{2000}\frac{k!}{3^k}",
    r"\sum_{k=1}^{2000}\sum_{j=1}^{2000}\frac{1}{jk}", r"(x+1)^{9999}+(x+2)^{9999}",
    r"(1/3)^{99999}+(1/7)^{50000}+(1/11)^{30000}", r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}",
    r"\int_0^1 x^2\sin(x^3)\cos(e^x)dx", r"\sin(10^{10^{10}})", r"e^{e^{e^{e^{9}}}}",
    r"\log_2(3^{3^{3^{3}}})", r"\sqrt[99999]{2^{99999}}", "1e99999", "1e999999999", "n!", "(x^x)!",
)  # fmt: skip


def slow(responses: dict[str, str]) -> dict[str, float]:
    """Return the processor time of the responses that take too long.

    A busy machine counts its own pauses as processor time, so the least of three runs decides.
    """
    costs = {name: seconds(text) for name, text in responses.items()}
    slow_ones = {name for name, cost in costs.items() if cost > SECONDS}
    costs = {name: min(seconds(responses[name]) for _ in range(2)) for name in slow_ones}
    return {name: cost for name, cost in costs.items() if cost > SECONDS}


def seconds(response: str) -> float:
    start = time.process_time()
    for verifier in VERIFIERS:
        verifier.verify(response, ["5"], {})
    equal_text("words", response, ["5"])
    return time.process_time() - start


def test_a_long_response_of_one_repeated_piece_is_read_in_linear_time() -> None:
    assert slow({piece: piece * (12_000 // len(piece)) for piece in PIECES}) == {}


def test_a_long_box_of_one_repeated_piece_is_read_in_bounded_time() -> None:
    for length in (1_990, 8_000):  # the bound of an expression is 2,000
        for start in ("", "2"):  # white space at the start of a box is no part of it
            boxed = rf"\boxed{{{start}%s5}}"
            boxes = {piece: boxed % (piece * (length // len(piece))) for piece in INSIDE}
            assert slow(boxes) == {}


def test_an_enormous_value_is_wrong_within_bounded_time() -> None:
    boxes = {text: rf"\boxed{{{text}}}" for text in ENORMOUS}
    assert slow(boxes) == {}
    right = [text for text in boxes if Math().verify(boxes[text], ["5"], {}).correct]
    assert right == []


def test_an_enormous_reference_is_equal_to_itself_and_to_nothing_else() -> None:
    for text in ENORMOUS:
        assert Math().verify(rf"\boxed{{{text}}}", [text], {}).correct
        assert not Math().verify(r"\boxed{7}", [text], {}).correct
