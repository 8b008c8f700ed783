"""The claims of the second paper, on made-up records of a known law."""

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.critical_parameters import (
  analysis,
  claims,
  exact,
  network,
  tables,
)
from tests.experiments.critical_parameters.study_test import SMALL

EXACT = {'exact_steps': exact.steps(SMALL), 'exact_limits': exact.limits(SMALL)}
SPREAD = np.array([0.99, 1., 1.01])


def reduce(name, cells):
  """Reduce the cells of one study, with the exact theory."""
  return analysis.reduce(SMALL, {name: cells} | EXACT)


def judge(name, cells):
  """Judge the claims of one study: by key."""
  reduced = reduce(name, cells)
  return {claim.key: claim for claim in claims.claims(SMALL, reduced)}


def grid(law):
  """Make cells of least squares that obey a law, in three different runs."""
  return [{'dimension': d, 'label_noise': 0., 'batch_size': b,
           'staleness': tau, 'slowness': tau + 1 + (d + 1) / b,
           'at_edge': False, 'steps': (10 * law(d, b, tau) * SPREAD).tolist()}
          for d in (4, 12) for tau in (0, 4, 16) for b in (1, 4, 16)]


def sparse_cells(delay):
  """Make cells of sparse data whose steps double at delay(1/Δ, M)."""
  cells = []
  for d, k in ((4, 1), (8, 1), (4, 2)):
    critical = delay(d / k, d - 1)
    cells += [{'dimension': d, 'support': k, 'density': k / d,
               'noise_ratio': d - 1., 'staleness': tau, 'at_edge': False,
               'steps': (10 * (1 + tau / critical) * SPREAD).tolist()}
              for tau in (0, 4, 16)]
  return cells


class LeastSquaresTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda d, b, tau: tau + 1 + (d + 1) / b, 'holds'),
    (lambda d, b, tau: (tau + 1 + (d + 1) / b)**0.5, 'fails'),
    (lambda d, b, tau: 1 + (d + 1) / b, 'fails'))
  def test_a_law_that_is_not_obeyed_fails(self, law, verdict):
    found = judge('quadratic', grid(law))
    self.assertEqual(found['quadratic_collapse'].verdict, verdict)
    if verdict == 'holds':
      self.assertAlmostEqual(found['quadratic_collapse'].measured.value, 1)
      self.assertEqual(found['quadratic_not_batch'].verdict, 'holds')
      # Twice the steps at τ = 1 + M.
      self.assertAlmostEqual(
        found['quadratic_delay_4'].measured.value, 6 / 5)

  @parameterized.parameters(
    ('delay', lambda d, b, tau: tau + 1.),
    ('batch', lambda d, b, tau: 1 + (d + 1) / b),
    ('examples', lambda d, b, tau: b * (tau + 1.)))
  def test_another_law_that_explains_the_steps_is_seen(self, key, law):
    found = judge('quadratic', grid(law))
    self.assertEqual(found['quadratic_collapse'].verdict, 'fails')
    self.assertEqual(found[f'quadratic_not_{key}'].verdict, 'fails')

  def test_what_is_unknown_is_not_judged(self):
    cells = grid(lambda d, b, tau: tau + 1 + (d + 1) / b)
    cells[0]['steps'][1] = None
    self.assertEqual(
      judge('quadratic', cells)['quadratic_collapse'].verdict, 'unknown')

  @parameterized.parameters((1.8, 'holds'), (1., 'fails'), (2.5, 'fails'))
  def test_rates_out_of_bounds_fail(self, c, verdict):
    cells = [cell | {'steps': [c / cell['slowness']] * 3}
             for cell in grid(lambda d, b, tau: 1)]
    cells.sort(key=lambda cell: [cell[name] for name in analysis.AXES['rates']])
    found = judge('rates', cells)
    for name in ('least', 'largest'):
      self.assertEqual(found[f'rates_c_{name}'].verdict, verdict)
      self.assertAlmostEqual(found[f'rates_c_{name}'].measured.value, c)

  def test_the_exact_theory_is_within_reach_of_its_own_steps(self):
    cells = grid(lambda d, b, tau: 1)
    for cell, steps in zip(cells, EXACT['exact_steps']['exact'].values.ravel()):
      cell['steps'] = (1.1 * steps * SPREAD).tolist()
    found = judge('quadratic', cells)
    for name in ('least', 'largest'):
      self.assertEqual(found[f'quadratic_exact_{name}'].verdict, 'holds')
      self.assertAlmostEqual(
        found[f'quadratic_exact_{name}'].measured.value, 1.1, 3)

  def test_workers_are_compared_with_a_batch(self):
    # Stale gradients cost nothing: n workers need 1/n of what a batch needs.
    cells = grid(lambda d, b, tau: 1.)
    reduced = reduce('quadratic', cells)
    np.testing.assert_allclose(
      analysis.stale_over_batch(SMALL, reduced.quadratic), 1 / 16)


class SparseTest(absltest.TestCase):

  def test_delays_that_follow_sparsity(self):
    found = judge('sparse', sparse_cells(lambda sparsity, m: sparsity))
    for key in ('sparse_one_hot', 'sparse_bound', 'sparse_wide'):
      self.assertEqual(found[key].verdict, 'holds', key)

  def test_delays_that_follow_the_noise(self):
    found = judge('sparse', sparse_cells(lambda sparsity, m: 1 + m))
    self.assertEqual(found['sparse_one_hot'].verdict, 'holds')
    self.assertEqual(found['sparse_wide'].verdict, 'fails')
    for name in ('least', 'largest'):
      self.assertAlmostEqual(
        found[f'sparse_m_{name}'].measured.value, 1, 2)


class NetworkTest(absltest.TestCase):

  def make(self, noise):
    """Make curves of loss that reach the target as τ + 1 + M/b says."""
    step = np.arange(0, 25, 5)
    done = {}
    for b, tau in SMALL.network_cells():
      need = 2. * (tau + 1 + noise / b)
      loss = SMALL.target_loss * (2 - step / need)
      runs = np.stack([loss + 10, loss])[:, None].repeat(3, 1)
      done[network.part_name(b, tau)] = xr.Dataset(
        {'loss': (('rate', 'seed', 'step'), runs)},
        {'rate': list(SMALL.network_rates), 'seed': [0, 1, 2], 'step': step})
    run = done[network.part_name(8, 0)].isel(rate=1, drop=True)
    done[network.TRACKED] = run.assign(
      sq_norm=xr.ones_like(run['loss']),
      variance=noise * xr.ones_like(run['loss']))
    return done

  def test_critical_numbers_of_a_known_law(self):
    reduced = analysis.reduce(SMALL, self.make(noise=16.))
    critical = reduced.network.critical
    np.testing.assert_allclose(critical['batch'], 16.)
    np.testing.assert_allclose(critical['delay'], 8 * 3.)
    np.testing.assert_allclose(critical['second_delay'], 32 * 1.5)
    np.testing.assert_allclose(critical['tracked'], 16.)
    self.assertEqual(reduced.edges['network'], (4, 4))  # of two rates
    self.assertEqual(
      network.rates_of(SMALL, self.make(16.)[network.part_name(8, 0)]),
      {0: 0.4, 1: 0.4, 2: 0.4})

  def test_a_loss_that_is_never_reached_is_unknown(self):
    done = self.make(noise=16.)
    first = done[network.part_name(8, 0)]
    first['loss'] = first['loss'] + 100
    reduced = analysis.reduce(SMALL, done)
    found = {claim.key: claim for claim in claims.claims(SMALL, reduced)}
    self.assertEqual(found['network_one_number'].verdict, 'unknown')


class TablesTest(absltest.TestCase):

  def test_the_steps_of_every_cell_are_shown(self):
    reduced = reduce('quadratic', grid(lambda d, b, tau: tau + 1))
    first, second, critical, edges = tables.tables(SMALL, reduced, None)
    self.assertIn('M = 5', first.title)
    self.assertIn('M = 13', second.title)
    self.assertEqual([row[1] for row in first.rows], ['10', '50', '170'])
    self.assertLen(critical.rows, 2)
    self.assertEqual(list(edges.rows), [('quadratic', '0', '18')])


if __name__ == '__main__':
  absltest.main()
