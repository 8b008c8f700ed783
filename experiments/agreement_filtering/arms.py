"""The arms that `agreement_filtering` compares: rules, and their controls.

Arms differ in the rule that combines micro-gradients, see `rules`, and in
nothing else. The controls do what a filter does to the training, and not why:

  random         lets through as many micro-gradients as the filter did at this
                 stage of its own run, none included, but picks them blindly
  equal_updates  is the mean, and ends after as many updates as the filter made
"""

import dataclasses

from experiments.agreement_filtering.config import FILTER, Config


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to combine micro-gradients, over all settings of its lanes.

  Attributes:
    name: Of its folder.
    label: Of its line.
    rule: Of `rules`; a way to filter, or another.
    thresholds: One lane each; a rule without one has (2.0,).
    balance: Which labels balance the micro-batches: 'noisy' or 'clean'.
    partner: Whether it needs the records of `FILTER`.
  """

  name: str
  label: str
  rule: str
  thresholds: tuple[float, ...] = (2.0,)
  balance: str = 'noisy'
  partner: bool = False


def list_arms(config: Config) -> list[Arm]:
  """List all arms, those that others need first."""
  return [
    *(Arm(combine, f'filter: {combine.replace("_", " ")}', combine,
          config.thresholds) for combine in config.combines),
    Arm('mean', 'mean', 'mean'),
    Arm('geometric_median', 'geometric median', 'geometric_median'),
    Arm('random', 'blind filter, same rate', 'random', partner=True),
    Arm('equal_updates', 'mean, as many updates', 'equal_updates',
        partner=True),
    Arm('mean_clean', 'mean, balanced by true labels', 'mean',
        balance='clean'),
    Arm(f'{FILTER}_clean', 'filter, balanced by true labels', FILTER,
        (config.control_threshold,), balance='clean'),
  ]
