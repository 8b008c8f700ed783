"""The page "What each rule bears" is what is computed."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.robustness import faults, page, rules, table

ENDLESS = ('NaN', 'Inf', '1e30', 'one element 1e30')
# They select, or sort.
BEAR = ('median', 'trimmed mean', 'Krum', 'multi-Krum, 3', 'minimum diameter',
        'nearest-neighbor mixing, Krum', 'geometric median')


class FaultsTest(parameterized.TestCase):

  def test_the_good_stay_as_they_are(self):
    honest = faults.honest().astype(np.float32)
    for fault in faults.FAULTS:
      np.testing.assert_array_equal(
        faults.with_faults(fault, 2)[:-2], honest[:-2])

  def test_two_good_workers_have_a_cosine_of_a_half(self):
    honest = faults.honest()
    unit = honest / np.linalg.norm(honest, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(8, 1)]
    np.testing.assert_allclose(cosines, 0.5, atol=0.1)

  def test_a_little_is_within_the_spread(self):
    grads = faults.with_faults('ALIE', 1)
    away = np.abs(grads[-1] - grads[:-1].mean(0)) / grads[:-1].std(0)
    np.testing.assert_allclose(away, 1.5, rtol=1e-3)


@pytest.mark.slow
class TableTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.tables = {bad: table.compute(bad) for bad in (1, 2)}

  def test_the_page_is_what_is_computed(self):
    shown = page.between(page.PAGE.read_text(), page.BEGIN, page.END)
    self.assertTrue(page.same(shown, page.tables()))

  @parameterized.parameters(1, 2)
  def test_what_is_not_finite_is_left_out_by_every_rule(self, bad):
    for rule, row in self.tables[bad].items():
      for fault, cell in row.items():
        with self.subTest(f'{rule}: {fault}'):
          self.assertEqual(cell.left_out, bad if fault in ENDLESS else 0)
          if fault in ENDLESS:
            self.assertEqual(cell.error, row['NaN'].error)

  def test_some_bear_every_fault_of_one_worker_and_the_mean_does_not(self):
    row = self.tables[1]
    for rule in BEAR:
      self.assertLess(max(cell.error for cell in row[rule].values()), 1.1, rule)
    self.assertGreater(row['mean']['× 10⁶'].error, 1e5)
    self.assertGreater(row['agreement']['× 10⁶'].error, 1e5)
    for fault in ('× −10', '× −1', 'constant', 'IPM'):
      self.assertLess(row['agreement'][fault].error, 0.1)


class SameTest(absltest.TestCase):

  def test_a_tenth_of_a_number_and_no_more(self):
    self.assertTrue(page.same('| a | 0.5 |', '| a | 0.54 |'))
    self.assertTrue(page.same('| a | 2·10⁵ |', '| a | 2·10⁵ |'))
    for other in ('| a | 0.6 |', '| b | 0.5 |', '| a | *0.5* |', '| a |',
                  '| a | 5·10⁵ |'):
      self.assertFalse(page.same('| a | 0.5 |', other), other)

  def test_the_page_has_the_marks_that_it_is_written_between(self):
    text = page.PAGE.read_text()
    for marks in ((page.BEGIN, page.END), page.ALARM):
      self.assertEqual(
        page.put(text, page.between(text, *marks), *marks), text)

  def test_each_rule_is_made(self):
    for bad in (1, 2):
      for make in rules.rules(bad).values():
        make()


if __name__ == '__main__':
  absltest.main()
