"""The tables of `gradient_diversity --study=batches`."""

from experiments.common.tables import Table, number, plus_minus


def tables(config, reduced, summary) -> list[Table]:
  """Lay out the cells, the distances, B_S by layer and what was tracked."""
  return [_cells(config, summary), _distances(config, summary),
          *_layers(config, summary), *_tracking(config, summary)]


def _cells(config, summary):
  return Table(
    f'{config.dataset}, {config.model}, {config.train_examples} examples, '
    f'{config.passes} passes, mean ± standard error of {config.num_seeds} '
    f'seeds.\nB_S is measured at batch {config.reference_batch_size} alone, '
    f'where the loss first reaches {config.target_loss:g}',
    ('r', 'batch', 'rate', 'loss ratio',
     f'gradients to loss {config.target_loss:g}', 'predicted', 'steps',
     'B_S there'),
    [(f'{cell["replication"]:g}', f'{cell["batch_size"]}',
      f'{cell["learning_rate"]:g}', plus_minus(*cell['loss_ratio']),
      plus_minus(*cell['evaluations'], spec='.0f'),
      number(cell['predicted_evaluations']), number(cell['steps'][0]),
      number(summary['bound_at_target'][f'{cell["replication"]:g}'])
      if cell['batch_size'] == config.reference_batch_size else '')
     for cell in summary['cells']])


def _distances(config, summary):
  return Table(
    f'Distance of twin runs after {config.passes} passes, mean ± standard '
    f'error of {config.num_twins} pairs', ('batch', 'distance'),
    [(size, plus_minus(*distance, spec='.3f'))
     for size, distance in summary['distance'].items()])


def _layers(config, summary):
  """Lay out B_S of each layer; nothing where it was not measured."""
  if not summary['layers']:
    return []
  return [Table(
    f'B_S of each layer over all {config.train_examples} examples, at the end '
    f'of {config.passes} passes at batch {config.reference_batch_size}.\n'
    'It changes along the training: the first table reads it earlier, where '
    f'the loss reaches {config.target_loss:g}',
    ('layer', *(f'r = {r:g}' for r in config.replications)),
    [(layer, *map(number, bounds.values()))
     for layer, bounds in summary['layers'].items()])]


def _tracking(config, summary):
  """Compare what was tracked with what is exact."""
  ratio = summary['band_ratio']
  if not ratio:
    return []
  names = {'workers': f'{config.num_workers} workers',
           'examples': f'{config.reference_batch_size} examples'}
  rows = {names[source]: row for source, row in summary['tracking'].items()}
  if small := summary['small_tracking']:
    rows[f'{names["workers"]}, batch {config.batch_sizes[0]}'] = small
  return [Table(
    'B_S over the shortest window that knows it to a factor of two, mean ± '
    'standard error.\nIntervals of the workers are '
    f'{ratio["measured"]:.2f} times as wide as those of the examples; '
    f'predicted: {ratio["predicted"]:.2f}',
    ('gradients of', 'known (%)', 'then hold the exact one (%)',
     'lower bound is right (%)', 'one of the two is right (%)'),
    [(name, *(plus_minus(*row[share], spec='.1f', scale=100)
              for share in ('known', 'covered', 'bounded', 'told')))
     for name, row in rows.items()]),
    Table('What `gradiv.advise` says at the end of the first run. Its B_S is '
          'an average over the last steps',
          ('r', 'advice'), list(summary['advice'].items()), is_text=True)]
