r"""The verifier `math` compares answers as mathematics. Its files, from the text to the verdict:

latex                 the answer in one plain notation: \dfrac12, ½ and 1/2 look alike
tokens, expressions   an expression as a tree
quantities            an expression with its unit
values                the value of a tree: exact where it is rational, else with 60 digits
splitting, shapes     the parts of a list, interval, equation or matrix
reading               the shapes that a text may have
candidates            the part of a response that is read
compare               two shapes are equal, or not
math                  the verifier
"""
