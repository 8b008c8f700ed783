"""Figures are drawn even where every run has diverged."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.common import plots


class LogScaleTest(parameterized.TestCase):

  def draw(self, axis, values):
    """Draw values along an axis; return its scale."""
    figure, ((ax,),) = plots.panels()
    places = np.arange(len(values))
    ax.plot(*(values, places) if axis == 'x' else (places, values))
    plots.log_scale(ax, axis)
    folder = self.enterContext(tempfile.TemporaryDirectory())
    plots.save(figure, pathlib.Path(folder) / 'figure.png')
    return ax.get_xscale() if axis == 'x' else ax.get_yscale()

  @parameterized.parameters('x', 'y')
  def test_only_where_there_is_something_to_show(self, axis):
    self.assertEqual(self.draw(axis, np.array([1.0, 10.0, np.nan])), 'log')
    for nothing in (np.full(3, np.nan), -np.ones(3)):
      self.assertEqual(self.draw(axis, nothing), 'linear')


if __name__ == '__main__':
  absltest.main()
