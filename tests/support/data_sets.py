"""Rows of public data sets in their own fields, and the example that each row is meant to be."""

from typing import Any

from ledgers import user

OPTION_B = {"text": "y", "label": "B"}
ASSISTANT = {"role": "assistant", "content": "Add them.\n\\boxed{7}"}
# Each with question, references and verifier.
ROWS: dict[str, tuple[dict[str, Any], str, list[str], str]] = {
    "AIME": ({"ID": "2024-I-1", "Problem": "q", "Answer": 204}, "q", ["204"], "numeric"),
    "MATH-500": (
        {"problem": "q", "solution": r"so $\boxed{x}$", "answer": "x^2", "unique_id": "test/1"},
        "q",
        ["x^2"],
        "math",
    ),
    "OpenR1": (
        {"problem": "q", "solution": "...", "answer": "7", "generations": ["a"], "messages": None},
        "q",
        ["7"],
        "numeric",
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "3 and 4", "output": "7"},
        "Add.\n\n3 and 4",
        ["7"],
        "numeric",
    ),
    "BIG-Bench Hard": ({"input": "Is it so?", "target": "yes"}, "Is it so?", ["yes"], "words"),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "7"}]},
        "q",
        ["7"],
        "numeric",
    ),
    "OpenAI fine-tuning": (
        {"messages": [*user("q"), ASSISTANT | {"weight": 1, "refusal": None}]},
        "q",
        ["7"],
        "numeric",
    ),
    "OpenAI preferences": (
        {
            "input": {"messages": user("q"), "tools": [], "parallel_tool_calls": True},
            "preferred_output": [ASSISTANT],
            "non_preferred_output": [{"role": "assistant", "content": "8"}],
        },
        "q",
        ["7"],
        "numeric",
    ),
    "preferences": (
        {"prompt": "q", "chosen": [*user("q"), ASSISTANT], "rejected": [*user("q"), ASSISTANT]},
        "q",
        ["7"],
        "numeric",
    ),
    "SVAMP": (
        {"Body": "3 cats and 4 cats.", "Question": "How many?", "Answer": 7.0, "Equation": "3+4"},
        "3 cats and 4 cats.\n\nHow many?",
        ["7.0"],
        "numeric",
    ),
    "SQuAD": (
        {
            "context": "In Rome.",
            "question": "q",
            "answers": {"text": ["Rome", "Rome"], "answer_start": [3, 3]},
        },
        "In Rome.\n\nq",
        ["Rome"],
        "words",
    ),
    "TriviaQA": (
        {"question": "q", "answer": {"value": "Rome", "aliases": ["Roma"], "type": "City"}},
        "q",
        ["Rome", "Roma"],
        "words",
    ),
    "BoolQ": (
        {"question": "q", "passage": "p", "answer": False},
        "p\n\nq",
        ["no", "false"],
        "words",
    ),
    "SciQ": (
        {"question": "q", "correct_answer": "water", "distractor1": "air", "support": "water"},
        "q",
        ["water"],
        "words",
    ),
    "GPQA": (
        {"Question": "q", "Correct Answer": "10 m", "Incorrect Answer 1": "9 m"},
        "q",
        ["10 m"],
        "math",
    ),
    "RACE": (
        {"article": "a", "question": "q", "options": ["x", "y"], "answer": "B"},
        "a\n\nq\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "MedMCQA": (
        {"question": "q", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 2, "exp": "..."},
        "q\nA. x\nB. y\nC. z\nD. w",
        ["C"],
        "choice",
    ),
    "MedQA": (
        {"question": "q", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"},
        "q\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "HellaSwag": (
        {"question": "q", "endings": ["x", "y", "z"], "label": "2"},
        "q\nA. x\nB. y\nC. z",
        ["C"],
        "choice",
    ),
    "WinoGrande": (
        {"question": "q", "option1": "x", "option2": "y", "answer": "1"},
        "q\nA. x\nB. y",
        ["A"],
        "choice",
    ),
    "ARC": (
        {
            "question": {"stem": "q", "choices": [{"text": "x", "label": "A"}, OPTION_B]},
            "answerKey": "B",
        },
        "q\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "OpenAI evals": ({"input": user("q"), "ideal": "7"}, "q", ["7"], "numeric"),
    "rows of Hugging Face's server": (
        {"row_idx": 0, "row": {"question": "q", "answer": "7"}, "truncated_cells": []},
        "q",
        ["7"],
        "numeric",
    ),
    "TruthfulQA": (
        {"Question": "q", "Best Answer": "It is red", "Correct Answers": "It is red; Red"},
        "q",
        ["It is red"],
        "words",
    ),
    "PubMedQA": (
        {
            "question": "q",
            "context": {"contexts": ["a", "b"], "labels": ["OBJECTIVE", "RESULTS"]},
            "final_decision": "yes",
        },
        "a\n\nb\n\nq",
        ["yes"],
        "words",
    ),
    "distilled reasoning": (
        {"prompt": "q", "answer": "<think>6 or 7?\nSeven.</think>\n\n7"},
        "q",
        ["7"],
        "numeric",
    ),
    "several answers at once": (
        {"question": "q", "final_answer": ["1", "-1"], "is_multiple_answer": True},
        "q",
        ["1, -1"],
        "math",
    ),
    "an object as answer": (
        {"question": "q", "answer": {"city": "Rome", "age": 7}},
        "q",
        ['{"age": 7, "city": "Rome"}'],
        "json_equal",
    ),
    "parts of a text": (
        {
            "messages": user([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]),
            "answer": "7",
        },
        "a\nb",
        ["7"],
        "numeric",
    ),
    "OlympiadBench, two formulas": (
        {"question": "q", "final_answer": ["$2$,$3$"], "is_multiple_answer": True},
        "q",
        ["$2$,$3$"],
        "math",
    ),
    "ReClor": (
        {"context": "c", "question": "q", "answers": ["w", "x", "y", "z"], "label": 2},
        "c\n\nq\nA. w\nB. x\nC. y\nD. z",
        ["C"],
        "choice",
    ),
    "QuAIL": (
        {"context": "c", "question": "q", "answers": ["x", "y"], "correct_answer_id": 1},
        "c\n\nq\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "a class with an answer": ({"prompt": "q", "label": 0, "target": "no"}, "q", ["no"], "words"),
    "a marked output": ({"prompt": "q", "output": "no", "label": 1}, "q", ["no"], "words"),
    "a label that is a word": ({"question": "q", "label": "neutral"}, "q", ["neutral"], "words"),
    "LogiQA 2": (
        {"text": "t", "question": "q", "options": ["x", "y"], "answer": 1},
        "t\n\nq\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "DREAM": (
        {"dialogue": ["M: a", "W: b"], "question": "q", "choice": ["x", "y"], "answer": "y"},
        "M: a\n\nW: b\n\nq\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "COPA": (
        {"premise": "p", "question": "cause", "choice1": "x", "choice2": "y", "label": "x"},
        "p\n\ncause\nA. x\nB. y",
        ["A"],
        "choice",
    ),
    "TabMWP": (
        {"question": "q", "table": "a | b", "choices": None, "answer": "22"},
        "a | b\n\nq",
        ["22"],
        "numeric",
    ),
    "Alpaca with the whole row as text": (
        {"instruction": "Add.", "input": "", "output": "7", "text": "### Add.\n### 7"},
        "Add.",
        ["7"],
        "numeric",
    ),
    "HellaSwag in its own fields": (
        {"ctx_a": "c", "ctx": "A man sits.", "endings": ["x", "y"], "label": "1"},
        "A man sits.\nA. x\nB. y",
        ["B"],
        "choice",
    ),
    "MAWPS": ({"iIndex": 1, "sQuestion": "q", "lSolutions": [27.0]}, "q", ["27.0"], "numeric"),
    "FLAN": ({"inputs": "q", "targets": "7"}, "q", ["7"], "numeric"),
    "FlashRAG": ({"question": "q", "golden_answers": ["Rome"]}, "q", ["Rome"], "words"),
    "BIG-bench": (
        {"inputs": "q", "targets": ["x"], "multiple_choice_targets": ["x", "y"]},
        "q\nA. x\nB. y",
        ["A"],
        "choice",
    ),
    "Skywork-OR1": (
        {"prompt": user("q"), "reward_model": {"ground_truth": '["34"]', "style": "rule"}},
        "q",
        ["34"],
        "numeric",
    ),
    "Search-R1": (
        {"prompt": user("q"), "reward_model": {"ground_truth": {"target": ["Rome", "Roma"]}}},
        "q",
        ["Rome", "Roma"],
        "words",
    ),
    "SQuAD in its own form": (
        {"question": "q", "answers": [{"text": "Rome", "answer_start": n} for n in (3, 9)]},
        "q",
        ["Rome"],
        "words",
    ),
    "DROP, one span": (
        {"question": "q", "answers_spans": {"spans": ["Rome", "Rome"], "types": ["span"]}},
        "q",
        ["Rome"],
        "words",
    ),
    "DROP, a number": (
        {"question": "q", "answer": {"number": "3", "date": {"day": ""}, "spans": []}},
        "q",
        ["3"],
        "numeric",
    ),
    "ASDiv": ({"question": "q", "answer": "9 (apples)"}, "q", ["9 (apples)"], "numeric"),
    "abbreviations": (
        {"question": "q", "answer": "Dr. King and St. Paul met Mr. Smith at the sea"},
        "q",
        ["Dr. King and St. Paul met Mr. Smith at the sea"],
        "words",
    ),
    "paragraphs": (
        {"question": "q", "context": ["a", " b "], "answer": "Rome"},
        "a\n\nb\n\nq",
        ["Rome"],
        "words",
    ),
}
