r"""The verifier `math` compares answers as mathematics. Its files, from the text to the verdict:

candidates            the part of a response that is read
notation              the answer in one plain notation: \dfrac12, ½ and 1/2 look alike
answer.lark, reader   the grammar of answers, and the shapes of its parts
relations             lists, intervals, equations and inequalities
shapes                the kinds of answers
values                the value of an expression, with 1,000 digits
compare               two shapes are equal, or not
math                  the verifier

latex2sympy2_extended, the parser of math-verify, was tried first. It takes 20 to 70 ms for an
answer (the grammar takes 0.3 ms), and reads `2(3)` as 5, `4 5` as 9 and `A^T` as A.
"""
