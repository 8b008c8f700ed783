"""May a loss over a batch be computed example by example?"""

from gradiv.per_example._separation.walk import check_separate as check_separate
