"""Per-example statistics on models that others wrote, at small sizes.

  pip install '.[zoo]'
  python -m experiments.overhead.zoo --workdir=runs/zoo
"""
