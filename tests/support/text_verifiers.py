"""One of each verifier that reads a response's text."""

from tempo_trainer.sampling.verifiers import (
    Choice,
    Exact,
    JsonEqual,
    Math,
    Numeric,
    StringCheck,
    Words,
)

VERIFIERS = (Math(), Numeric(), Choice(), Exact(), Words(), JsonEqual(), StringCheck())
