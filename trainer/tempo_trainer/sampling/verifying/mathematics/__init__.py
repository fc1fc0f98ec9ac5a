r"""The verifier `math` compares answers as mathematics, in this order of files:

latex        the answer in one plain notation: \dfrac12, ½ and 1/2 look alike afterwards
shapes       lists, tuples, sets, intervals, equations and matrices, down to expressions
expressions  an expression as a tree
values       the value of a tree: exact where it is rational, else with 60 digits
compare      two shapes are equal, or not
math         the verifier
"""
