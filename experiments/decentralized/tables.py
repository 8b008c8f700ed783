"""The tables of `decentralized`, for a terminal."""

import textwrap

from experiments.decentralized import arms

NAMES = {
  'ssgd': 'SSGD', 'ssgd_noise': 'SSGD*, isotropic noise',
  'imposed': 'SSGD, α_e of DPSGD imposed', 'lamb': 'LAMB'}
VERDICTS = {True: 'holds', False: 'FAILS', None: 'open'}


def name_of(arm: str) -> str:
  """Name an arm for a reader."""
  head, _, tail = arm.partition('_')
  return f'DPSGD, {tail}' if head == 'dpsgd' else NAMES[arm]


def table(config, summary) -> str:
  """Lay out counts, then what was measured, then the claims."""
  groups = {}
  for cell in summary['cells']:
    groups.setdefault((cell['domain'], cell['batch_size']), []).append(cell)
  lines = []
  for (domain, size), cells in groups.items():
    goal = (f'test accuracy above {config.target_accuracy:.0%}'
            if domain == 'images' else
            f'test loss below {config.target_loss:g}')
    lines += ['', f'{domain}, {config.num_workers} workers, batch {size}, '
              f'{config.steps_of(domain)} steps: runs that end with {goal} '
              '[95 % interval]', '']
    for arm in arms.list_arms(config):
      own = [c for c in cells if c['arm'] == arm.name] if (
        arm.domain, arm.batch_size) == (domain, size) else []
      if own:
        lines.append(f'{name_of(arm.name):<27} ' + '  '.join(
          f'{c["learning_rate"]:>5g}: {_share(c):<18}' for c in own))
  return '\n'.join([*lines, *_measured(summary), *_claims(summary)]) + '\n'


def _measured(summary):
  cells = [c for c in summary['cells'] if 'early_ratio' in c
           and c['domain'] == 'images']
  if not cells:
    return []
  names = 'ratio', 'spread', 'across_batch', 'across_spread'
  lines = ['', 'medians over first and last steps', '',
           f'{"":<27} {"batch":>5} {"rate":>5} {"α_e/α":>14} {"σ_w²":>17} '
           f'{"Δ_S":>17} {"Δ_2":>17}']
  for c in cells:
    pair = lambda name: ' '.join(
      f'{_number(c[f"{when}_{name}"])}' for when in ('early', 'late'))
    lines.append(
      f'{name_of(c["arm"]):<27} {c["batch_size"]:>5} {c["learning_rate"]:>5g} '
      f'{pair(names[0]):>14} ' + ' '.join(
        f'{pair(name):>17}' for name in names[1:]))
  return lines


def _claims(summary):
  lines = ['', 'claims [95 % interval]; open: the interval allows both', '']
  for each in summary['claims']:
    lines.append(f'{VERDICTS[each["holds"]]:<6} {each["claim"]}: '
                 f'{figure(each["measured"], each["test"])}')
    lines += textwrap.wrap(each['test'], 72, initial_indent=' ' * 7,
                           subsequent_indent=' ' * 7)
  return lines


def figure(values: list, test: str) -> str:
  """Write what was measured: with its interval, or one by one."""
  if test.endswith(('rises', 'order')):
    return ', '.join(map(_number, values))
  return '{} [{}, {}]'.format(*(
    '-' if x is None else f'{x:.2f}' for x in values))


def _share(cell):
  low, high = cell['interval']
  return f'{cell["successes"]}/{cell["runs"]} [{low:.2f}, {high:.2f}]'


def _number(x):
  return '-' if x is None else f'{x:.2g}'
