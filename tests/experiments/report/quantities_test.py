"""Numbers that follow from the records, against their definitions."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest

from experiments.report import columns, gauges, quantities, reading
from experiments.report.columns import Column
from tests.experiments.report import folders


class ColumnTest(absltest.TestCase):

  def test_bands_leave_out_what_is_unknown(self):
    values = np.arange(11.)[None].repeat(2, 0)
    values[1, :5] = np.nan
    column = Column(np.arange(2), values)
    low, high = column.band()
    np.testing.assert_allclose(column.middle(), [5, 7.5])
    np.testing.assert_allclose(low, [1, 5.5])
    np.testing.assert_allclose(high, [9, 9.5])
    self.assertIn('middle 80 %', column.caption)
    few = Column(np.arange(2), values[:, -3:])
    np.testing.assert_allclose(few.band(), [[8, 8], [10, 10]])
    nothing = Column(np.arange(1), np.full((1, 3), np.nan))
    np.testing.assert_array_equal(nothing.middle(), [np.nan])

  def test_of_part(self):
    with tempfile.TemporaryDirectory() as folder:
      run = reading.read(folders.of_study(pathlib.Path(folder)))
    part = run.parts[0]
    part.rows[1]['loss'] = [None, 'inf', 1.]
    part.rows[2]['name'] = 'word'
    found = columns.of_part(part)
    self.assertEqual(list(found), ['loss'])
    np.testing.assert_array_equal(found['loss'].values[1],
                                  [np.nan, np.inf, 1.])


class BoundTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    with tempfile.TemporaryDirectory() as folder:
      self.part, = reading.read(folders.of_fit(pathlib.Path(folder))).parts
    self.found = columns.of_part(self.part)

  def test_the_window_of_the_tracked_one(self):
    bound, = quantities.bounds(self.found)
    self.assertEqual(bound.band, '95 % interval')
    np.testing.assert_array_equal(bound.value[:3], [np.nan] * 3)
    self.assertEqual((bound.value[4], bound.low[4], bound.high[4],
                      bound.window[4]), (201, 150, 300, 64))
    least = quantities.at_least(self.found)
    np.testing.assert_array_equal(least.values[:4, 0], [5, 5, 5, np.nan])

  def test_of_averages_alone(self):
    found = {name: self.found[name] for name in ('sq_norm', 'variance')}
    bound, = quantities.bounds(found)
    np.testing.assert_allclose(bound.value, 1 + 40 * np.arange(1, 10))
    negative = found | {'sq_norm': Column(bound.steps, -np.ones((9, 1)))}
    self.assertEmpty(quantities.bounds(negative))

  def test_of_signals(self):
    steps = np.arange(2)
    found = {f'signal{end}': Column(steps, np.full((2, 1), x)) for end, x in (
      ('', 0.1), ('_low', 0.05), ('_high', 0.2))}
    bound, = quantities.bounds(found)
    self.assertEqual((bound.value[0], bound.low[0], bound.high[0]), (10, 5, 20))

  def test_layers(self):
    layers = quantities.layers(self.found)
    self.assertEqual(list(layers), ['first', 'second'])
    np.testing.assert_allclose(layers['second'].value[:2], [21, 41])

  def test_batch_used(self):
    self.assertEqual(
      quantities.batch_used(self.part, self.found).values[-1, 0], 64)
    sizes = Column(np.arange(2), np.array([[8.], [16.]]))
    used = quantities.batch_used(self.part, {'batch_size': sizes})
    self.assertIs(used, sizes)


class GaugesTest(absltest.TestCase):

  def test_against_the_gradients(self):
    grads = np.random.default_rng(1).normal(size=(5, 7)) + 0.5
    n, mean = len(grads), grads.mean(0)
    sq_norm = mean @ mean
    along = grads @ mean
    across = grads - along[:, None] / sq_norm * mean
    expected = {
      'norm test': np.sqrt(grads.var(0, ddof=1).sum() / n / sq_norm),
      'inner-product test': np.sqrt(along.var(ddof=1) / n) / sq_norm,
      'orthogonality test': np.sqrt(
        (across**2).sum() / (n - 1) / n / sq_norm)}
    measured = gauges.measure(grads @ grads.T)
    for name, value in expected.items():
      np.testing.assert_allclose(measured[name], value, rtol=1e-12)

  def test_cosines(self):
    grads = np.array([[3., 4.], [4., -3.], [6., 8.]])
    np.testing.assert_allclose(
      gauges.cosines(grads @ grads.T), [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
      atol=1e-15)
    self.assertTrue(np.isnan(gauges.cosines(np.zeros((2, 2)))).all())

  def test_a_mean_of_nothing_is_not_known(self):
    for x in gauges.measure(np.zeros((2, 2))).values():
      self.assertTrue(np.isnan(x))

  def test_norms_of_examples(self):
    norms = Column(np.array([0, 5]), np.array([[[1., 4.]], [[9., 16.]]]))
    rows, found, step = gauges.example_norms({'example_sq_norms': norms})
    np.testing.assert_array_equal((rows, found), [[0, 1], [3, 4]])
    self.assertEqual(step, 5)


if __name__ == '__main__':
  absltest.main()
