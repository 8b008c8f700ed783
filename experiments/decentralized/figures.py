"""The figures of `decentralized`."""

import numpy as np

from experiments.common import intervals, plots

# The same arm has the same color in every figure; all graphs are DPSGD.
COLORS = dict(zip(('dpsgd', 'ssgd', 'ssgd_noise', 'imposed', 'lamb'),
                  plots.COLORS))
BY_RATE = 'ssgd', 'ssgd_noise', 'imposed'


def color_of(arm) -> str:
  """Choose the color of an arm."""
  return COLORS['dpsgd' if arm.topology else arm.name]


def success(config, reduced, claims):
  """Show successes by arm and rate, and of every arm at the rate in focus."""
  del claims
  if 'images' not in config.domains:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.2)
  runs = [reduced.find(name) for name in (config.main_arm, *BY_RATE)]
  rates = [f'{rate:g}' for rate in config.learning_rates]
  plots.matrix(
    left, np.array([run.good.sum('seed').values for run in runs]),
    config.num_seeds, [_short(run.arm) for run in runs], rates)
  left.set(xlabel='learning rate', title='Runs that succeed,\n'
           f'of {config.num_seeds} (batch {config.batch_sizes[0]})')
  rows = [_at_focus(config, run) for run in reduced.runs
          if (run.arm.domain, run.arm.batch_size)
          == ('images', config.batch_sizes[0])]
  rows.sort(key=lambda row: -row[2].value)
  for i, (run, _, share) in enumerate(rows):
    right.plot(share[1:], [i, i], color=color_of(run.arm), lw=2)
    right.plot(share.value, i, 'o', color=color_of(run.arm), ms=5)
  right.set_yticks(range(len(rows)), [name for _, name, _ in rows])
  right.invert_yaxis()
  right.set(xlabel='share of runs that succeed\n(bar: 95 % interval)',
            xlim=(-0.04, 1.04), title='The same at the rate '
            f'{config.focus_rate:g}')
  return figure


def _at_focus(config, run):
  """Return a run with its label and its share of successes in focus."""
  count = run.good.sum('seed')
  rate = config.focus_rate
  if rate not in run.arm.rates:
    rate = float(count.idxmax('rate'))
  label = _short(run.arm) + (
    f' at {rate:g}' if rate != config.focus_rate else '')
  return run, label, intervals.of_share(
    int(count.sel(rate=rate)), len(run.arm.seeds))


def _short(arm):
  return arm.label.replace('DPSGD, ', 'DPSGD,\n').replace('SSGD, ', 'SSGD,\n')


def along(config, reduced, claims):
  """Show the effective learning rate and the spread along the training."""
  del claims
  if 'images' not in config.domains:
    return None
  figure, ((left, right),) = plots.panels(2, height=2.9)
  rate = config.focus_rate
  main, plain = (reduced.find(name) for name in (config.main_arm, 'ssgd'))
  for run in (plain, main):
    series = run.records['ratio'].sel(rate=rate)
    _band(left, series['look'].values, series.values,
          color_of(run.arm), run.arm.label)
  left.set(xlabel='step', ylabel=r'effective over nominal rate '
           r'$\alpha_e/\alpha$', ylim=(0, 1.4),
           title='DPSGD lowers its rate early')
  left.legend(loc='lower right')
  spread = main.records['spread'].sel(rate=rate)
  _band(right, spread['look'].values[1:], spread.values[:, 1:],
        color_of(main.arm), main.arm.label)
  plots.log_scale(right)
  right.set(xlabel='step', ylabel=r'spread of the workers $\sigma_w^2$',
            title='while its workers disagree')
  figure.suptitle(
    f'Learning rate {rate:g}, median and quartiles of {config.num_seeds} '
    'seeds, smoothed', fontsize=8, color='#444444', x=0.01, ha='left')
  return figure


def _band(ax, steps, series, color, label):
  """Draw the median of the seeds and their quartiles, smoothed."""
  series = np.where(np.isfinite(series), series, np.nan)
  quartiles = np.nanquantile(series, (.25, .5, .75), axis=0)
  low, middle, high = _smooth(quartiles)
  ax.plot(steps, middle, color=color, label=label)
  ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)


def _smooth(curves, reach=3):
  """Take running medians of curves [..., look], over seven looks."""
  padded = np.pad(curves, ((0, 0), (reach, reach)), mode='edge')
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, 2 * reach + 1, axis=1)
  return np.median(windows, -1)


def text(config, reduced, claims):
  """Show successes of the LSTM by rate, and its loss along the training."""
  del claims
  if 'text' not in config.domains:
    return None
  figure, ((left, right),) = plots.panels(2, height=2.8)
  runs = [reduced.find(name, 'text') for name in (config.main_arm, 'ssgd')]
  plots.matrix(
    left, np.array([run.good.sum('seed').values for run in runs]),
    config.text_seeds, [_short(run.arm) for run in runs],
    [f'{rate:g}' for rate in config.text_learning_rates])
  left.set(xlabel='learning rate', title='LSTM on text: runs that\n'
           f'succeed, of {config.text_seeds}')
  styles = '-', '--', ':'
  for run in runs:
    for rate, style in zip(run.arm.rates, styles):
      loss = run.records['loss'].sel(rate=rate)
      right.plot(loss['step'], loss.median('seed'), style,
                 color=color_of(run.arm), lw=1.4,
                 label=f'{run.arm.label.split(",")[0]}, {rate:g}')
  right.axhline(config.target_loss, color='#222222', lw=0.8)
  right.set(xlabel='step', ylabel='test loss (nats a character)',
            title='Median loss of the seeds')
  right.set_ylim(top=1.4 * right.get_ylim()[1])
  right.legend(fontsize=7, ncols=2, loc='upper right')
  return figure
