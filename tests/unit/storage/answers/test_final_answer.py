"""The final answer of a response is found by its mark, else in the last line."""

import pytest

from tempo_storage.answers.final_answer import Mark, final_answer, visible
from tempo_storage.boxed import boxes


@pytest.mark.parametrize(
    ("response", "text", "mark"),
    [
        (r"\boxed{1}, then \boxed{2}", "2", Mark.BOX),
        (r"\boxed {7}", "7", Mark.BOX),
        (r"\boxed 7", "7", Mark.BOX),
        (r"\fbox{7}", "7", Mark.BOX),
        (r"\\boxed{7}", "7", Mark.BOX),
        (r"\boxed{\boxed{7}}", r"\boxed{7}", Mark.BOX),
        (r"x=\boxed{1} or x=\boxed{2}", "1, 2", Mark.BOX),
        (r"So $x=\boxed{3}$ and the final answer is $\boxed{7}$", "7", Mark.BOX),
        (r"the answer is \boxed{7", "", Mark.BOX),
        (r"\boxed{} The answer is 7", "", Mark.BOX),
        (r"put it in \boxed{answer}. The answer is 7", "7", Mark.PHRASE),
        ("<answer>6</answer> <answer> 7 </answer>", "7", Mark.TAG),
        ("so <answer>7", "7", Mark.TAG),
        (r"\boxed{6} <answer>7</answer>", "7", Mark.TAG),
        ('```json\n{"answer": 7}\n```', "7", Mark.JSON),
        ("9*2=18\n#### 18\n\nQuestion: how many in 7 days?", "18", Mark.HASHES),
        ("We add 4 and 2. #### 6", "6", Mark.HASHES),
        ("so <answer>7</answer>, as <answer> says", "says", Mark.TAG),
        ("<answer>7</answer><answer> ", "7", Mark.TAG),
        ("7\n\n---", "7", Mark.LAST_LINE),
        ("#### Step 1: add\nThe answer is 7", "7", Mark.PHRASE),
        ("**Answer: 73**", "73", Mark.PHRASE),
        ("### Final Answer\n\n73", "73", Mark.PHRASE),
        ("The answer is:\n$$\n7\n$$", "7", Mark.PHRASE),
        ("Answer：7", "7", Mark.PHRASE),
        ("答案是7", "7", Mark.PHRASE),
        (
            "The answer is 7. I am sure this answer is correct.",
            "7. I am sure this answer is correct",
            Mark.PHRASE,
        ),
        ("so it is\n\\[\nx = 7\n\\]", "x = 7", Mark.LAST_LINE),
        ("```output\n7\n```", "7", Mark.LAST_LINE),
        ("", "", Mark.LAST_LINE),
    ],
)
def test_the_last_mark_of_the_strongest_kind_names_the_answer(
    response: str, text: str, mark: Mark
) -> None:
    answer = final_answer(response)
    assert (answer.text, answer.mark) == (text, mark)


@pytest.mark.parametrize(
    ("response", "rest"),
    [
        ("<think>3</think>7", "7"),
        ("3</think>7", "7"),
        ("<think>3, wait", ""),
        ("<think>a</think>7<think>b", ""),
        ("<|channel|>analysis<|message|>6<|end|><|channel|>final<|message|>7<|return|>", "7"),
        ("<|channel|>analysis<|message|>6", ""),
        ("7<|im_end|>", "7"),
    ],
)
def test_reasoning_is_no_part_of_the_response(response: str, rest: str) -> None:
    assert visible(response) == rest


def test_boxes_are_found_with_escaped_braces_and_rows_of_matrices() -> None:
    assert boxes(r"\boxed{\{1, 2\}}")[-1].content == r"\{1, 2\}"
    assert boxes(r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}") != []
    assert [box.content for box in boxes(r"a \boxed{1} b \boxed{\frac{1}{2}} c")] == [
        "1",
        r"\frac{1}{2}",
    ]
