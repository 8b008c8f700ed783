"""What rules bear of bad workers, and who is bad: docs/robustness.md.

  python -m experiments.robustness            # writes it, in some minutes
  python -m experiments.robustness --check    # fails where the page is stale

`faults` says what bad workers send, `rules` who aggregates, and `table` what
comes out. `training` breaks a worker while it trains, and `alarms` tells when
the alarm names it.
"""
