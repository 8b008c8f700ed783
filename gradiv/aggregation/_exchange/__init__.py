"""How the gradients of n workers meet, for the traffic of one all-reduce.

In the order in which an aggregation goes through them:

  membership  which axes hold the workers, and how a gradient is laid out
  finite      exclude gradients that are not finite, and count them
  buckets     decide which leaves travel together
  slices      all-to-all of slices, and the all-gather back
  products    Gram matrices and weighted sums of slices
  collecting  one exchange as a whole, for a weighting
"""
