"""Checks whether a batch loss can be computed one example at a time.

The loss is traced at two batch sizes, and the two programs are read side by
side, equation by equation. `states` says what can be known of a value of the
program, `primitive_rules` (with `indexing` and `reshaping`) how each primitive
changes it, and `walk` goes through the equations and gives the verdict.

The check is conservative: a loss that passes is a mean of functions of one
example each; one that does not pass may still be.
"""

from gradiv.per_example._separation.walk import check_separate as check_separate
