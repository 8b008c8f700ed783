"""How gradient diversity limits the batch size of a real network.

Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018. Two studies:

  batches      What do large batches cost, and does B_S predict it? (section 6)
  mechanisms   What do masks, noise and rounding of the gradients do? (section
               4.4 and Table 1)

  python -m experiments.gradient_diversity --workdir=runs/gradient_diversity
  python -m experiments.gradient_diversity --workdir=runs/mechanisms \
    --flagfile=experiments/gradient_diversity/flags/digits_mechanisms.flags

--study=batches or --study=mechanisms chooses; --help lists the flags of the
study that is chosen.
"""
