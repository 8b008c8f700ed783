"""What each aggregation rule bears: the table of docs/robustness.md.

  python -m experiments.robustness            # computes it, in half a minute
  python -m experiments.robustness --check    # fails where the page is stale

`faults` says what bad workers send, `rules` who aggregates, and `table` what
comes out.
"""
