"""Simulated workers and servers: the identities that their traces obey."""

import numpy as np
from absl.testing import absltest, parameterized

from gradiv import staleness
from tests import helpers
from tests.gradiv.staleness.servers import MEANS, RULES, trace_of, weights_of

N = len(MEANS)


class AsynchronousTest(parameterized.TestCase):

  @parameterized.product(law=tuple(staleness.LAWS), seed=(0, 1))
  def test_delays_add_up(self, law, seed):
    # Σ of those applied + Σ of those under way = T (n − 1), whatever the times.
    for steps in (1, 7, 500):
      trace = trace_of('asynchronous', law, steps, seed=seed)
      applied = trace.staleness.sum()
      under_way = (steps - trace.reading).sum()
      self.assertEqual(applied + under_way, steps * (N - 1))

  def test_equal_workers_are_n_minus_1_behind(self):
    trace = trace_of('asynchronous', 'constant', 60, means=[2.] * 6)
    np.testing.assert_array_equal(trace.staleness[:6], range(6))
    np.testing.assert_array_equal(trace.staleness[6:], 5)
    np.testing.assert_array_equal(trace.worker, np.arange(60) % 6)
    np.testing.assert_array_equal(trace.time, 2. * (1 + np.arange(60) // 6))

  def test_one_worker_is_never_late(self):
    trace = trace_of('asynchronous', steps=20, means=[1.])
    np.testing.assert_array_equal(trace.staleness, 0)
    np.testing.assert_array_equal(trace.version, np.arange(20))

  def test_workers_come_as_often_as_they_are_fast(self):
    trace = trace_of('asynchronous', 'constant', 1000)
    ends = trace.time[-1] / np.array(MEANS)
    np.testing.assert_allclose(np.bincount(trace.worker), ends, atol=1)
    self.assertTrue((np.diff(trace.time) >= 0).all())

  def test_versions_are_those_of_the_last_arrival(self):
    trace = trace_of('asynchronous')
    read = np.zeros(N, int)
    for a, worker in enumerate(trace.worker):
      self.assertEqual(trace.version[a], read[worker])
      self.assertEqual(trace.staleness[a], a - read[worker])
      read[worker] = a + 1
    np.testing.assert_array_equal(trace.reading, read)


class RulesTest(parameterized.TestCase):

  @parameterized.product(law=tuple(staleness.LAWS), threshold=(1, 2, 7))
  def test_ringmaster_is_never_as_late_as_its_threshold(self, law, threshold):
    free = trace_of('asynchronous', law)
    trace = trace_of('ringmaster', law, threshold=threshold)
    self.assertGreaterEqual(free.staleness.max(), threshold)
    self.assertLess(trace.staleness.max(), threshold)
    if law != 'constant':  # there the fastest stops all others, over and over
      self.assertEqual(trace.staleness.max(), threshold - 1)
    self.assertLess((trace.num_steps - trace.reading).max(), threshold)
    # Who is stopped starts anew, and so all that arrive are used.
    self.assertTrue(trace.steps.all())

  def test_ringmaster_that_waits_for_all_is_asynchronous(self):
    free = trace_of('asynchronous')
    trace = trace_of('ringmaster', threshold=int(free.staleness.max()) + 1000)
    helpers.assert_same(vars(trace), vars(free))

  @parameterized.parameters(1, 4, 12)
  def test_rennala_steps_along_batches_of_the_present(self, batch_size):
    trace = trace_of('rennala', batch_size=batch_size)
    self.assertEqual(trace.num_steps, 200)
    used = trace.weight > 0
    np.testing.assert_array_equal(used, trace.staleness == 0)
    np.testing.assert_array_equal(
      np.bincount(trace.version[used]), [batch_size] * 200)
    self.assertGreater((~used).sum(), 100)
    self.assertFalse(trace.steps[~used].any())

  @parameterized.product(law=tuple(staleness.LAWS), n=(1, 2, 5))
  def test_ringleader_is_at_most_2n_minus_2_late(self, law, n):
    trace = trace_of('ringleader', law, means=MEANS[:n])
    # In every step, of all gradients in the table in use.
    late = np.arange(200)[:, None] - trace.version
    used = weights_of(trace, 'ringleader') > 0
    self.assertLessEqual(late[used].max(), 2 * n - 2)
    self.assertGreaterEqual(late[used].min(), 0)
    # Nothing is discarded, and in each round each worker steps once.
    self.assertTrue((trace.weight > 0).all())
    by_round = trace.worker[trace.steps].reshape(-1, n)
    np.testing.assert_array_equal(np.sort(by_round, 1),
                                  np.tile(np.arange(n), (200 // n, 1)))

  def test_the_bound_of_ringleader_is_reached(self):
    late = max(
      (np.arange(200)[:, None] - trace.version)[
        weights_of(trace, 'ringleader') > 0].max()
      for seed in range(3)
      for trace in [trace_of('ringleader', 'pareto', seed=seed)])
    self.assertEqual(late, 2 * N - 2)

  @parameterized.named_parameters(*((r[0], *r) for r in RULES))
  def test_tables_are_those_of_the_papers(self, rule, options):
    # What the table, of which a trace tells, makes of each arrival.
    trace = trace_of(rule, **options)
    table = np.zeros((*trace.table, len(trace.worker)))
    seen = []
    for a, (bank, row, share, steps) in enumerate(zip(
        trace.bank, trace.row, trace.weight, trace.steps)):
      table[bank, row] *= 1 - share
      table[bank, row, a] += share
      if steps:
        seen.append(table[bank].mean(0))
    np.testing.assert_allclose(seen, weights_of(trace, rule, **options),
                               1e-12, 1e-15)
    np.testing.assert_allclose(np.sum(seen, 1), 1, 1e-12)


class TimesTest(parameterized.TestCase):

  def test_laws(self):
    draws = {law: trace_of('asynchronous', law, 20_000, means=[3.]).time
             for law in staleness.LAWS}
    times = {law: np.diff(time, prepend=0) for law, time in draws.items()}
    np.testing.assert_allclose(times['constant'], 3.)
    helpers.assert_mean(times['exponential'], 3.)
    helpers.assert_mean(times['exponential']**2, 2 * 3.**2)
    # P(x > s) = (1/s)^{3/2} of 3x/3, s ≥ 1: of mean 3, without a variance.
    for s in (1., 2., 8.):
      helpers.assert_mean(times['pareto'] > s, s**-1.5)

  def test_jobs_take_as_long_under_every_rule(self):
    # Of rules that stop nobody, and of a worker too fast to be stopped.
    arrivals = lambda rule, **options: [
      x[:150] for trace in [trace_of(rule, **options)]
      for x in (trace.time, trace.worker)]
    free = arrivals('asynchronous')
    for rule, options in (RULES[2], RULES[3]):
      helpers.assert_same(arrivals(rule, **options), free)
    stopped = trace_of('ringmaster', threshold=1, means=[1., 1e-3])
    mine = trace_of('asynchronous', means=[1., 1e-3])
    fast = lambda trace: trace.time[trace.worker == 1][:50]
    np.testing.assert_array_equal(fast(stopped), fast(mine))

  def test_seeds_and_functions(self):
    run = lambda **options: trace_of('asynchronous', **options)
    helpers.assert_same(vars(run()), vars(run()))
    self.assertNotEqual(run(seed=1).time[0], run().time[0])
    helpers.assert_same(vars(run(law=lambda rng: rng.exponential())),
                        vars(run()))


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(service_times=[]), 'service_times'),
    (dict(service_times=[1., 0.]), 'service_times=0.0'),
    (dict(num_steps=0), 'num_steps=0'), (dict(law='normal'), "law='normal'"),
    (dict(law=lambda rng: -1.), 'law=-1.0'),
    (dict(rule='picky'), "rule='picky'"),
    (dict(rule='ringmaster'), 'threshold=None'),
    (dict(rule='rennala', batch_size=0), 'batch_size=0'),
    (dict(threshold=3), 'threshold=3'),
    (dict(rule='ringmaster', threshold=1, batch_size=2), 'batch_size=2'))
  def test_an_error_names_the_argument_and_its_value(self, options, message):
    options = dict(service_times=[1., 2.], num_steps=5) | options
    with self.assertRaisesRegex(ValueError, message):
      staleness.simulate(**options)


if __name__ == '__main__':
  absltest.main()
