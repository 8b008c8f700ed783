"""The figures of `--study=mechanisms`. Bars and bands are 95 % intervals."""

import numpy as np

from experiments.common import intervals, marks, plots
from experiments.gradient_diversity.mechanisms import analysis, arms, claims

DRAWS = {draws: {'color': color, 'marker': marker} for draws, color, marker in
         zip(('tied', 'fresh', 'shared'), plots.COLORS, plots.MARKERS)}


def bounds(config, reduced, judged):
  """Show the measured B_S against the formula, setting by setting."""
  figure, axes = plots.panels(
    rows=2, height=2.5, sharex=True, height_ratios=(3, 2))
  above, below = axes[:, 0]
  labels = [arm.label for arm in arms.list_arms(config)]
  cells = arms.list_cells(config)
  found = reduced.bounds.transpose('cell', 'seed')
  ratios = (found['inverse'] * found['predicted']).values
  formulas = found['predicted'].mean('seed').values
  measured = 1 / found['inverse'].mean('seed').values
  for k, (draws, style) in enumerate(DRAWS.items()):
    own = [i for i, cell in enumerate(cells) if cell[1] == draws]
    places = np.array([labels.index(cells[i][0].label) for i in own])
    places = places + 0.25 * (k - 1)
    above.hlines(formulas[own], places - 0.12, places + 0.12, lw=2,
                 color=style['color'])
    above.plot(places, measured[own], ms=4.5, ls='none', label=f'{draws} draws',
               **style)
    marks.means(below, places, ratios[own], ms=4.5, **style)
  n = config.measured_examples
  above.axhline(n, color=marks.INK, lw=0.8, ls=':')
  marks.level(above, n, f'n = {n}, all examples', at=0.01)
  plots.log_scale(above)
  low, high = above.get_ylim()
  ticks = [m * 10**k for k in range(7) for m in (1, 2, 5)]
  above.set_yticks([x for x in ticks if low <= x <= high])
  above.yaxis.set_minor_locator(plots.no_ticks())
  plots.plain_numbers(above).set(
    ylabel='batch-size bound\n$B_S$ (examples)', title=_says(
      judged, ('formula_drop', 'formula_noise', 'formula_quantize'), 'holds',
      'Masks, noise and rounding raise $B_S$ as the formulas (lines) say',
      '$B_S$ under masks, noise and rounding: points measured, lines by '
      'formula'))
  above.legend(ncols=3)
  below.axhspan(*claims.FORMULA, color=marks.SHADE, lw=0, zorder=0)
  below.axhline(1, color=marks.INK, lw=0.8)
  below.set_ylabel('measured $1/B_S$\nover the formula')
  below.set_xticks(range(len(labels)), map(_broken, labels), fontsize=7)
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
  found = {claim.verdict for claim in judged if claim.key in keys}
  return then if found == {verdict} else otherwise


def rounds(config, reduced, judged):
  """Show steps by batch size; and modeled time over the mean's, by price."""
  figure, ((left, right),) = plots.panels(2, height=3.4)
  steps = reduced.rounds['steps'].sel(target=config.target)
  shown = [arm for arm in arms.list_arms(config) if not arm.strength or
           arm.strength in claims.PAPER_SHARES]
  times = analysis.best_times(config, steps)
  share = analysis.share_of_plain(times).transpose('arm', 'price', 'seed')
  for i, (arm, color) in enumerate(zip(shown, plots.COLORS)):
    own = steps.sel(arm=arm.label).transpose('batch', 'seed')
    dodge = 2 ** (0.08 * (i - (len(shown) - 1) / 2))
    marks.means(left, own['batch'] * dodge, own.values, ls='-', color=color,
                marker=plots.MARKERS[i], label=arm.label)
    if arm.strength:
      found = [intervals.of_mean(x) for x in share.sel(arm=arm.label).values]
      value, low, high = np.array(found).T
      marks.band(right, share['price'], low, value, high, color=color)
      if config.target == claims.PAPER_TARGET:
        _paper(right, arm, color)
  plots.label_sizes(left, config.batch_sizes)
  plots.plain_numbers(plots.log_scale(left)).set(
    xlabel='batch size $B$ (examples)', title='Steps, with 95 % intervals',
    ylabel=f'steps to {config.target:.0%} training accuracy')
  left.legend()
  right.axhline(1, color=marks.INK, lw=0.8)
  shaded = 'bands: 95 %'
  if reduced.prices:
    ends = reduced.prices[0], reduced.prices[-1]
    right.axvspan(*ends, color=marks.SHADE, lw=0, zorder=0)
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
  marks.level(ax, paper, f'the paper, p = {arm.strength:g}: {paper:.2f}',
              at=0.01, color=color)


def bits(config, reduced, judged):
  """Show what fewer bits cost: a row a wire, by falling bits."""
  figure, ((left, right),) = plots.panels(2, height=3.6, sharey=True)
  wires = {wire.name: wire for wire in arms.wires()}
  runs = dict(sorted(reduced.wires.items(), reverse=True,
                     key=lambda item: float(item[1]['bits'][0])))
  plain = reduced.wires['float32']
  marks.row_names(left, [
    f'{wires[name].label}  ({float(run["bits"][0]):.3g} bits)'
    for name, run in runs.items()])
  test = intervals.of_mean(plain['test'].values)
  loss = lambda run: run['loss'].isel(step=-1)
  for ax, find, one in (
      (left, lambda run: 100 * (run['test'] - plain['test']),
       100 * (np.array(test) - test.value)),
      (right, loss, intervals.of_mean(loss(plain).values))):
    found = [intervals.of_mean(find(run).values) for run in runs.values()]
    if np.isfinite(one).all():
      ax.axvspan(one[1], one[2], color=marks.SHADE, lw=0, zorder=0)
    ax.axvline(one[0], color=marks.INK, lw=0.8)
    limits = _limits(found, one)
    for row, (x, name) in enumerate(zip(found, runs)):
      _row(ax, row, x, limits, plots.COLORS[not wires[name].is_sent])
    if limits:
      ax.set_xlim(limits)
    ax.locator_params(axis='x', nbins=5)
  left.set(xlabel='test accuracy beyond float32 (points)', title=_says(
    judged, ('wire_8', 'wire_4'), 'holds', '8 and 4 bits cost\nno accuracy',
    'Test accuracy'))
  right.set(xlabel='training loss', title='Training loss')
  for color, text in zip(plots.COLORS, ('bits counted in the program',
                                        'bits as its paper codes them')):
    right.plot([], [], 'o', color=color, label=text)
  right.fill_between([], [], color=marks.SHADE,
                     label='95 % interval of float32')
  figure.legend(loc='outside lower center', ncols=3, fontsize=7)
  return figure


def _limits(found, one):
  """Choose an axis for all but outliers; None where nothing is known."""
  known = np.array([x for x in found if x.is_known])
  if not len(known):
    return None
  apart = np.abs(known[:, 0] - np.median(known[:, 0]))
  spread = np.median(apart) or np.ptp(known[:, 0])
  shown = [*known[apart <= 6 * spread, 1:].ravel(),
           *(x for x in one if np.isfinite(x))]
  pad = 0.15 * (np.ptp(shown) or 1.0)
  return min(shown) - pad, max(shown) + pad


def _row(ax, row, found, limits, color):
  """Draw a value with its interval, or an arrow where it is off the axis."""
  if not found.is_known:
    return
  if limits[0] <= found.value <= limits[1]:
    marks.points(ax, [row], found, in_rows=True, color=color)
    return
  is_left = found.value < limits[0]
  end, sign = (limits[0], 1) if is_left else (limits[1], -1)
  text = f'{found.value:.2g} [{found.low:.2g}, {found.high:.2g}]'
  ax.plot(end, row, '<' if is_left else '>', color=color, ms=7,
          clip_on=False)
  ax.annotate(text.replace('-', '−'), (end, row), (sign * 8, 0),
              textcoords='offset points', va='center', fontsize=7,
              ha='left' if is_left else 'right', color=color)
