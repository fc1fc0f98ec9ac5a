"""Read answers: the final answer of a response, its plain text, and its number."""
