"""The figures of `decentralized`."""

import warnings

import numpy as np

from experiments.common import intervals, marks, plots

# The same arm has the same color in every figure; all graphs are DPSGD.
COLORS = dict(zip(('dpsgd', 'ssgd', 'ssgd_noise', 'imposed', 'lamb'),
                  plots.COLORS))


def color_of(arm) -> str:
  """Choose the color of an arm."""
  return COLORS['dpsgd' if arm.topology else arm.name]


def success(config, reduced, claims):
  """Show successes by arm and rate, and of every arm at the rate in focus."""
  if 'images' not in config.domains:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.2)
  names = config.main_arm, 'ssgd', 'ssgd_noise', 'imposed'
  _matrix(left, map(reduced.find, names), config.num_seeds)
  left.set(xlabel='learning rate', title='Runs that succeed,\n'
           f'of {config.num_seeds} (batch {config.batch_sizes[0]})')
  rows = [_at_focus(config, run) for run in reduced.runs
          if (run.arm.domain, run.arm.batch_size)
          == ('images', config.batch_sizes[0])]
  rows.sort(key=lambda row: -row[-1].value)
  for i, (arm, _, share) in enumerate(rows):
    marks.points(right, [i], share, in_rows=True, color=color_of(arm),
                 elinewidth=2)
  marks.row_names(right, [name for _, name, _ in rows])
  right.set(xlabel='share of runs that succeed\n(bar: 95 % interval)',
            xlim=(-0.04, 1.04), title='The same at the rate '
            f'{config.focus_rate:g}')
  return figure


def _matrix(ax, runs, total):
  """Show how many runs succeed: a row an arm, a column a rate."""
  runs = list(runs)
  plots.matrix(
    ax, np.array([run.good.sum('seed').values for run in runs]), total,
    [_short(run.arm) for run in runs], [f'{x:g}' for x in runs[0].arm.rates])


def _at_focus(config, run):
  """Return an arm, its label, and its share of successes in focus.

  LAMB, whose rates are its own, stands at the best of them.
  """
  count, rate = run.good.sum('seed'), config.focus_rate
  label = _short(run.arm)
  if rate not in run.arm.rates:
    rate = float(count.idxmax('rate'))
    label += f' at {rate:g}'
  return run.arm, label, intervals.of_share(
    int(count.sel(rate=rate)), len(run.arm.seeds))


def _short(arm):
  return arm.label.replace('SGD, ', 'SGD,\n')


def along(config, reduced, claims):
  """Show the effective learning rate and the spread along the training."""
  if 'images' not in config.domains:
    return None
  figure, ((left, right),) = plots.panels(2, height=2.9)
  main, plain = (reduced.find(name) for name in (config.main_arm, 'ssgd'))
  for ax, run, name in ((left, plain, 'ratio'), (left, main, 'ratio'),
                        (right, main, 'spread')):
    series = run.records[name].sel(rate=config.focus_rate)
    # At the start all workers are equal.
    _band(ax, series.isel(look=slice(name == 'spread', None)), run.arm)
  left.set(xlabel='step', ylim=(0, 1.4), title='DPSGD lowers its rate early',
           ylabel='effective learning rate $\\alpha_e$,\n'
           r'over the nominal one $\alpha$')
  left.legend(loc='lower right')
  plots.log_scale(right).set(
    xlabel='step', title='while its workers disagree',
    ylabel="$\\sigma_w^2$: square distance of the\nworkers' weights "
    'from their mean')
  figure.suptitle(
    f'Learning rate {config.focus_rate:g}, median and quartiles of '
    f'{config.num_seeds} seeds, smoothed', fontsize=8, color='#444444',
    x=0.01, ha='left')
  return figure


def _band(ax, series, arm):
  """Draw the median of the seeds and their quartiles, smoothed."""
  quartiles = _quantiles(series, (.25, .5, .75)).values
  marks.band(ax, series['look'], *_smooth(quartiles), color=color_of(arm),
             label=arm.label)


def _quantiles(series, levels):
  """Take quantiles of the seeds that are finite; NaN where none is."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'All-NaN slice', RuntimeWarning)
    return series.where(np.isfinite(series)).quantile(levels, 'seed')


def _smooth(curves, reach=3):
  """Take running medians of curves [..., look], over seven looks."""
  padded = np.pad(curves, ((0, 0), (reach, reach)), mode='edge')
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, 2 * reach + 1, axis=1)
  return np.median(windows, -1)


def text(config, reduced, claims):
  """Show successes of the LSTM by rate, and its loss along the training."""
  if 'text' not in config.domains:
    return None
  figure, ((left, right),) = plots.panels(2, height=2.8)
  runs = [reduced.find(name, 'text') for name in (config.main_arm, 'ssgd')]
  _matrix(left, runs, config.text_seeds)
  left.set(xlabel='learning rate', title='LSTM on text: runs that\n'
           f'succeed, of {config.text_seeds}')
  for run in runs:
    for i, rate in enumerate(run.arm.rates):
      loss = run.records['loss'].sel(rate=rate)
      right.plot(loss['step'], _quantiles(loss, 0.5), lw=1.4,
                 ls=(0, (6 / i, 1.5)) if i else '-',  # the dashes of a rate
                 color=color_of(run.arm),
                 label=f'{run.arm.label.split(",")[0]}, {rate:g}')
  right.axhline(config.target_loss, color=marks.INK, lw=0.8)
  right.set(xlabel='step', ylabel='test loss (nats a character)',
            title='Median loss of the seeds')
  right.set_ylim(top=1.4 * right.get_ylim()[1])
  right.legend(fontsize=7, ncols=2, loc='upper right')
  return figure
