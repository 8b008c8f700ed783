"""The tables of `gradient_diversity --study=batches`, for a terminal."""


def table(config, summary) -> str:
  """Lay the cells out for a terminal."""
  target = config.target_loss
  lines = [
    '', f'{config.dataset}, {config.model}, {config.train_examples} examples, '
    f'{config.passes} passes, {config.num_seeds} seeds '
    '(mean ± standard error)', '',
    f'{"r":>3} {"batch":>6} {"rate":>6} {"loss ratio":>15} '
    f'{f"evals to {target:g}":>15} {"predicted":>10} {"steps":>7}']
  for cell in summary['cells']:
    if cell['batch_size'] == config.batch_sizes[0]:
      bound = summary['bound_at_target'][f'{cell["replication"]:g}']
      lines.append(
        f'-- r = {cell["replication"]:g}: B_S where the loss is {target:g}: '
        f'{_number(bound, ".0f")} ' + '-' * 18)
    steps = cell['steps'][0]
    lines.append(
      f'{cell["replication"]:>3g} {cell["batch_size"]:>6} '
      f'{cell["learning_rate"]:>6g} {_pm(cell["loss_ratio"], ".2f"):>15} '
      f'{_pm(cell["evaluations"], ".0f"):>15} '
      f'{_number(cell["predicted_evaluations"], ".0f"):>10} '
      f'{_number(steps, ".0f"):>7}')
  distances = ', '.join(
    f'{size}: {_pm(d, ".3f")}' for size, d in summary['distance'].items())
  lines += ['', f'distance of twin runs by batch size: {distances}']
  return '\n'.join([
    *lines, *_layers(config, summary), *_tracking(config, summary)]) + '\n'


def _layers(config, summary):
  """Lay out B_S of each layer; nothing where it was not measured."""
  layers = summary['layers']
  if not layers:
    return []
  width = max(map(len, layers))
  return [
    '', f'B_S of each layer over all {config.train_examples} examples, after '
    f'{config.passes} passes', '',
    f'{"":<{width}} ' + ' '.join(
      f'{f"r = {r:g}":>9}' for r in config.replications),
    *(f'{layer:<{width}} ' + ' '.join(
      f'{"-" if bound is None else format(bound, ".0f"):>9}'
      for bound in bounds.values()) for layer, bounds in layers.items())]


def _tracking(config, summary):
  """Say how far what was tracked agrees with what is exact."""
  if not summary['coverage']:
    return []
  ratio = summary['band_ratio']
  sources = {f'{config.num_workers} workers': summary['coverage']
             } if ratio else {}
  sources[f'{config.reference_batch_size} examples'] = (
    summary['example_coverage'])
  percent = lambda x: '-' if x is None else f'{x:.0%}'
  return [
    '', 'B_S as tracked, by 95 % intervals, beside that of the whole set', '',
    f'{"gradients of":<14} {"hold it":>8} {"width of 1/B_S":>15} '
    f'{"trusted":>8}',
    *(f'{source:<14} {kept["all"]:>8.0%} {percent(kept["width"]):>15} '
      f'{kept["share_trusted"]:>8.0%}' for source, kept in sources.items()),
    *([] if not ratio else [
      f'the workers\' are {ratio["measured"]:.2f} times as wide; by the pairs '
      f'of examples that they compare, {ratio["predicted"]:.2f}'])]


def _number(x, form):
  return 'not reached' if x is None else format(x, form)


def _pm(pair, form):
  mean, error = pair
  if mean is None:
    return 'not reached'
  return format(mean, form) + (
    '' if error is None else f' ± {format(error, form)}')
