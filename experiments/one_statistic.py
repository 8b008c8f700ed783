"""Draws the figure of docs/one_statistic.md.

  python -m experiments.one_statistic

All curves are functions of the batch size over the noise scale; gradiv
computes them, for G = 1 and S = 1,000.
"""

import pathlib

import numpy as np

import gradiv
from experiments.common import plots

PATH = pathlib.Path(__file__).parents[1] / 'docs/results/one_statistic.svg'
NOISE_SCALE = 1000.


def draw():
  """Make the figure: what a batch costs, and what the names say there."""
  estimate = gradiv.Estimate(1., NOISE_SCALE)
  ratio = np.geomspace(0.01, 100, 200)
  batch = ratio * NOISE_SCALE
  steps = np.asarray(gradiv.steps_factor(estimate, batch))
  moments = gradiv.Moments(  # of batches whose mean is as long as expected
    batch, 1., 1 + NOISE_SCALE / batch, (1 - 1 / batch) * NOISE_SCALE)
  gain = batch * np.asarray(gradiv.gradient_diversity(moments))
  figure, ((left, right),) = plots.panels(2)

  left.plot(ratio, steps, label='steps')
  left.plot(ratio, np.asarray(gradiv.scaling.samples_factor(steps)), '--',
            label='gradients')
  left.set(title='What a batch costs', ylabel='over the fewest possible')
  left.legend(loc='upper center', frameon=True, framealpha=1,
              edgecolor='none')

  right.plot(ratio, gain / (1 + NOISE_SCALE), label='AdaScale gain r = BΔ,\n'
             'over its largest, B_S')
  right.plot(ratio, gain / batch, '--', label='gradient diversity Δ')
  right.plot(ratio, ratio**-0.5, ':', label='relative error θ')
  right.plot(ratio, ratio, '-.', label='signal to noise')
  right.set(title='What the names say', ylim=(0.008, 12))
  right.legend(loc='lower center', fontsize=7)

  for ax in (left, right):
    ax.set(xscale='log', yscale='log',
           xlabel='batch size over noise scale, B/ρ')
    ax.axvline(1, color='#888888', lw=1, zorder=0)
    ax.xaxis.set_minor_locator(plots.no_ticks())
  return figure


def main():
  print(f'wrote {plots.save_svg(draw(), PATH)}')


if __name__ == '__main__':
  main()
