"""May a loss over a batch be computed example by example?"""

from gradiv.examples.separation.checking import check_separate as check_separate
