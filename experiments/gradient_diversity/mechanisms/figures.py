"""The figures of `--study=mechanisms`. Bars and bands are 95 % intervals."""

import numpy as np

from experiments.common import intervals, plots
from experiments.gradient_diversity.mechanisms import analysis, arms, claims

DRAWS = ('tied', 'fresh', 'shared')
DARK = '#222222'


def bounds(config, reduced, judged):
  """Show the measured B_S against the formula, setting by setting."""
  figure, axes = plots.panels(
    rows=2, height=2.5, sharex=True, height_ratios=(3, 2))
  above, below = axes[:, 0]
  found = reduced.bounds.transpose('cell', 'seed')
  labels = [arm.label for arm in arms.list_arms(config)]
  for i, (arm, draws) in enumerate(arms.list_cells(config)):
    at, place = found.isel(cell=i), labels.index(arm.label)
    k = DRAWS.index(draws)
    place += 0.25 * (k - 1)
    color, marker = plots.COLORS[k], plots.MARKERS[k]
    formula = float(at['predicted'].mean())
    above.plot([place - 0.12, place + 0.12], [formula, formula], color=color,
               lw=2, solid_capstyle='butt')
    above.plot(place, 1 / at['inverse'].mean(), marker, color=color, ms=4.5,
               label=f'{draws} draws' if arm.label == labels[0] else None)
    _bar(below, place, intervals.of_mean(at['inverse'] * at['predicted']),
         color, marker)
  above.axhline(config.measured_examples, color=DARK, lw=0.8, ls=':')
  above.annotate(f'n = {config.measured_examples}, all examples',
                 (0.01, config.measured_examples), ha='left', va='bottom',
                 xycoords=('axes fraction', 'data'), fontsize=7)
  plots.log_scale(above)
  low, high = above.get_ylim()
  ticks = [m * 10**k for k in range(7) for m in (1, 2, 5)]
  above.set_yticks([x for x in ticks if low <= x <= high])
  above.yaxis.set_minor_locator(plots.no_ticks())
  plots.plain_numbers(above)
  above.set(ylabel='$B_S$ (examples)', title=_says(
    judged, ('formula_drop', 'formula_noise', 'formula_quantize'), 'holds',
    'Masks, noise and rounding raise $B_S$ as the formulas (lines) say',
    '$B_S$ under masks, noise and rounding: points measured, lines by formula'))
  above.legend(ncols=3)
  below.axhspan(*claims.FORMULA, color='#dddddd', lw=0, zorder=0)
  below.axhline(1, color=DARK, lw=0.8)
  below.set_ylabel('measured $1/B_S$\nover the formula')
  below.set_xticks(range(len(labels)), [_broken(x) for x in labels],
                   fontsize=7)
  below.tick_params(axis='x', length=0)
  below.set_title('Shaded: within 10 %. Bars: 95 % intervals over '
                  f'{config.num_seeds} networks', fontsize=8,
                  fontweight='normal')
  return figure


def _broken(label):
  """Shorten a label, and break it after its mechanism."""
  return label.replace('DropConnect', 'masks').replace(', ', '\n').replace(
    'plain ', 'plain\n')


def _says(judged, keys, verdict, then, otherwise):
  """Choose a title by the verdict on some claims."""
  found = [claim.verdict for claim in judged if claim.key in keys]
  return then if found and set(found) == {verdict} else otherwise


def _bar(ax, place, found, color, marker):
  """Draw a value with its interval."""
  if found.is_known:
    ax.plot([place, place], [found.low, found.high], color=color, lw=1.2)
    ax.plot(place, found.value, marker, color=color, ms=4.5)


def rounds(config, reduced, judged):
  """Show steps by batch size; and modeled time over the mean's, by price."""
  figure, ((left, right),) = plots.panels(2, height=3.4)
  steps = reduced.rounds['steps'].sel(target=config.target)
  shown = [arm for arm in arms.list_arms(config) if not arm.strength or
           arm.strength in claims.PAPER_SHARES]
  times = analysis.best_times(config, steps)
  share = analysis.share_of_plain(times)
  for i, (arm, color) in enumerate(zip(shown, plots.COLORS)):
    dodge = 2 ** (0.08 * (i - (len(shown) - 1) / 2))
    _steps(left, steps.sel(arm=arm.label), dodge, color, plots.MARKERS[i])
    if arm.strength:
      _band(right, share.sel(arm=arm.label), color)
      if config.target == claims.PAPER_TARGET:
        _paper(right, arm, color)
  plots.label_sizes(left, config.batch_sizes)
  plots.plain_numbers(plots.log_scale(left))
  to = f'to {config.target:.0%} training accuracy'
  left.set(xlabel='batch size $B$ (examples)', ylabel=f'steps {to}',
           title='Steps, with 95 % intervals')
  left.legend()
  right.axhline(1, color=DARK, lw=0.8)
  shaded = 'bands: 95 %'
  if reduced.prices:
    ends = reduced.prices[0], reduced.prices[-1]
    right.axvspan(*ends, color='#dddddd', lw=0, zorder=0)
    best = int(times['batch'].isel(arm=0).sel(price=ends[0]))
    shaded += f"; gray: the mean's best $B$ is {best}"
  right.set_xscale('log', base=2)
  prices = analysis.PRICES[::4]
  right.set_xticks(prices, [f'{price:,}' for price in prices], fontsize=7)
  right.set(xlabel=f'price of communication (gradients)\n{shaded}',
            ylabel='time over that of the plain mean', title=_says(
              judged, [f'time_{100 * p:.0f}' for p in claims.PAPER_SHARES],
              'fails', 'DropConnect saves no time', 'Time with DropConnect'))
  right.xaxis.label.set_size(8)
  return figure


def _paper(ax, arm, color):
  """Draw the paper's time over that of the mean as a dashed line."""
  paper = claims.PAPER_SHARES[arm.strength]
  ax.axhline(paper, color=color, ls='--', lw=1.2)
  ax.annotate(
    f'the paper, p = {arm.strength:g}: {paper:.2f}', (0.01, paper),
    xycoords=('axes fraction', 'data'), va='bottom', fontsize=7, color=color)


def _steps(ax, steps, dodge, color, marker):
  """Draw the mean steps by batch size, with intervals."""
  ax.plot(steps['batch'] * dodge, steps.mean('seed'), color=color,
          marker=marker, label=str(steps['arm'].values))
  for size, x in zip(steps['batch'].values,
                     steps.transpose('batch', 'seed').values):
    _bar(ax, size * dodge, intervals.of_mean(x), color, marker)


def _band(ax, share, color):
  """Draw the mean by price, with a band of its interval."""
  found = np.array([intervals.of_mean(x)
                    for x in share.transpose('price', 'seed').values])
  ax.plot(share['price'], found[:, 0], color=color)
  ax.fill_between(share['price'], found[:, 1], found[:, 2], color=color,
                  alpha=0.18, lw=0)


def bits(config, reduced, judged):
  """Show what fewer bits cost: a row a wire, by falling bits."""
  figure, ((left, right),) = plots.panels(2, height=3.6, sharey=True)
  wires = {wire.name: wire for wire in arms.wires()}
  runs = dict(sorted(reduced.wires.items(), reverse=True,
                     key=lambda item: float(item[1]['bits'][0])))
  plain = reduced.wires['float32']
  own = intervals.of_mean(plain['test'].values)
  for ax, find, one in (
      (left, lambda run: 100 * (run['test'] - plain['test']),
       [100 * (x - own.value) for x in own]),
      (right, lambda run: run['loss'].isel(step=-1),
       intervals.of_mean(plain['loss'].isel(step=-1).values))):
    found = [intervals.of_mean(find(run).values) for run in runs.values()]
    if np.isfinite(one).all():
      ax.axvspan(one[1], one[2], color='#dddddd', lw=0, zorder=0)
    ax.axvline(one[0], color=DARK, lw=0.8)
    limits = _limits(found, one)
    for row, (x, name) in enumerate(zip(found, runs)):
      color = plots.COLORS[0 if wires[name].coded_bits is None else 1]
      _row(ax, row, x, color, limits)
    if limits:
      ax.set_xlim(limits)
    ax.locator_params(axis='x', nbins=5)
  left.set_yticks(range(len(runs)), [
    f'{wires[name].label}  ({float(run["bits"][0]):.3g} bits)'
    for name, run in runs.items()])
  left.invert_yaxis()
  left.tick_params(axis='y', length=0)
  left.set(xlabel='test accuracy beyond float32 (points)', title=_says(
    judged, ('wire_8', 'wire_4'), 'holds', '8 and 4 bits cost\nno accuracy',
    'Test accuracy'))
  right.set(xlabel='training loss', title='Training loss')
  for k, text in enumerate(('bits counted in the program',
                            'bits as its paper codes them')):
    right.plot([], [], 'o', color=plots.COLORS[k], label=text)
  right.fill_between([], [], color='#dddddd',
                     label='95 % interval of float32')
  figure.legend(loc='outside lower center', ncols=3, fontsize=7)
  return figure


def _limits(found, one):
  """Choose an axis for all but outliers; None where nothing is known."""
  values = np.array([x.value for x in found if x.is_known])
  ends = np.array([x[1:] for x in found if x.is_known])
  if not len(values):
    return None
  spread = np.median(np.abs(values - np.median(values))) or np.ptp(values)
  is_near = np.abs(values - np.median(values)) <= 6 * spread
  shown = [*ends[is_near].ravel(), *(x for x in one if np.isfinite(x))]
  pad = 0.15 * (np.ptp(shown) or 1.0)
  return min(shown) - pad, max(shown) + pad


def _row(ax, row, found, color, limits):
  """Draw a value with its interval, or an arrow where it is off the axis."""
  if not found.is_known:
    return
  if limits[0] <= found.value <= limits[1]:
    ax.plot([found.low, found.high], [row, row], color=color, lw=1.4)
    ax.plot(found.value, row, 'o', color=color, ms=5)
    return
  is_left = found.value < limits[0]
  end, sign = (limits[0], 1) if is_left else (limits[1], -1)
  text = f'{found.value:.2g} [{found.low:.2g}, {found.high:.2g}]'
  ax.plot(end, row, '<' if is_left else '>', color=color, ms=7,
          clip_on=False)
  ax.annotate(text.replace('-', '−'), (end, row), (sign * 8, 0),
              textcoords='offset points', va='center', fontsize=7,
              ha='left' if is_left else 'right', color=color)
