"""The tables of `agreement_filtering`: one for each quantity."""

from experiments.agreement_filtering import analysis
from experiments.agreement_filtering.arms import list_arms
from experiments.common.tables import Table, plus_minus


def tables(config, reduced, summary) -> list[Table]:
  """Lay out accuracy, what is memorized and what is skipped, by noise."""
  every = [(arm, tau) for arm in list_arms(config) for tau in arm.thresholds]
  tuned = [(arm, None) for arm in list_arms(config) if arm.name != 'mean']
  skipping = [(arm, tau) for arm, tau in every
              if len(arm.thresholds) > 1 or arm.partner]
  rate = f'{config.learning_rates[-1]:g}'
  columns = ['', *(f'{noise:.0%} wrong' for noise in config.noise_rates)]
  return [
    Table(f'{title}, mean ± standard error of {config.num_seeds} seeds, in %',
          columns, [_row(summary, arm, tau, quantity) for arm, tau in rows])
    for title, quantity, rows in (
      ('Test accuracy, rate tuned', 'test', every),
      ('Test accuracy beyond the mean, rate and τ tuned', 'test_beyond_mean',
       tuned),
      ('Best validation accuracy on the way', 'best_validation_on_the_way',
       every),
      (f'Validation accuracy at the rate {rate}',
       'validation_at_largest_rate', every),
      (f'Wrong labels memorized at the rate {rate}',
       'memorized_at_largest_rate', every),
      ('Steps skipped', 'skipped', skipping))]


def _row(summary, arm, tau, quantity):
  which = '' if len(arm.thresholds) < 2 else (
    ', τ tuned' if tau is None else f', τ = {tau:g}')
  cells = analysis.find_cells(summary, arm.name, tau)
  return [arm.label + which, *(
    plus_minus(*cell[quantity], spec='.1f', scale=100) for cell in cells)]
