"""Folders of runs, as the trainer and a study leave them."""

import json
import pathlib

import numpy as np

EVIL = '<script>alert("&")</script>'


def write(path: pathlib.Path, value) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def write_lines(path: pathlib.Path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def timing(steps, per_second=10.):
  return [{'step': step, 'seconds': 2. + step / per_second,
           'steps_per_second': 0.5 if not i else per_second,
           'examples_per_second': (0.5 if not i else per_second) * 64,
           **({'compiles': True} if not i else {})}
          for i, step in enumerate(steps)]


def of_fit(folder: pathlib.Path, *, steps: int = 8, is_done: bool = True
           ) -> pathlib.Path:
  """Write a run of `engine.fit` that has tracked all that there is."""
  rng = np.random.default_rng(0)
  rows = []
  for step in range(0, steps + 1):
    grads = rng.normal(size=(4, 3)) + 1
    rows.append({
      'step': step, 'loss': 2.0**-step, 'accuracy': 1 - 2.0**-step / 2,
      'sq_norm': 1.0 / (step + 1), 'variance': 40.0,
      'sq_norm/first': 0.5 / (step + 1), 'variance/first': 30.0,
      'sq_norm/second': 0.5 / (step + 1), 'variance/second': 10.0,
      'batch_size_bound': 40. * (step + 1) + 1 if step > 2 else None,
      'batch_size_bound_low': 30. * (step + 1) if step > 2 else None,
      'batch_size_bound_high': 'inf' if step == 3 else 60. * (step + 1),
      'window': 16 * step if step > 2 else 0, 'batch_size_at_least': 5.,
      'worker_gram': (grads @ grads.T).tolist(),
      'example_sq_norms': (np.arange(1, 21)**2.).tolist(),
      'example_rows': list(range(100, 120))})
  write_lines(folder / 'metrics.jsonl', rows)
  write_lines(folder / 'timing.jsonl', timing(range(2, steps + 1, 2)))
  write(folder / 'advice.json', {
    'sentence': 'batch 64 is far below B_S', 'batch_size': 64, 'lanes': 1})
  write(folder / 'checkpoints' / 'step_00000008' / 'meta.json', {
    'config': {'seed': 0, 'name': EVIL}, 'numerics': {'jax': '9.9'}})
  if is_done:
    (folder / 'metrics.jsonl.sha256').write_text('')
  return folder


def of_study(folder: pathlib.Path, *, rate: float = 0.1, verdict: str = 'holds'
             ) -> pathlib.Path:
  """Write a run of a study with two parts of three lanes, and a claim."""
  write(folder / 'config.json', {
    'program': 'experiments.mine', 'command': ['mine', '--rate=0.1'],
    'flags': {'rate': rate, 'sizes': [1, 2], 'data_dir': ''}, 'commit': 'abc',
    'versions': {'jax': '9.9', 'flax': None}, 'devices': ['cpu: cpu']})
  write(folder / 'claims.json', {
    'name': 'mine', 'title': f'A paper {EVIL}', 'link': 'javascript:alert(1)',
    'sentence': 'It holds & more.', 'setup': 'Least squares.',
    'pictures': {'curve': 'A curve'}, 'claims': [{
      'key': 'first', 'text': f'less is more {EVIL}', 'how': 'by counting',
      'measured': [1.5, 1.25, 1.75], 'allowed': [1.0, None], 'paper': 2.0,
      'source': 'Fig. 1', 'runs': 3, 'unit': '×', 'note': '', 'second': None,
      'verdict': verdict}, {
      'key': 'second', 'text': 'nothing is known', 'how': '', 'measured': [
        None, None, None], 'allowed': [None, 0.5], 'verdict': 'unknown'}]})
  (folder / 'curve.png').write_bytes(b'\x89PNG')
  for part, shift in (('batch_8', 0.), ('batch_16', 1.)):
    block = folder / 'sweep' / part / 'lanes_00'
    write(block / 'lanes.json', {
      'defined_by': {'steps': 4, 'batch_size': 8}, 'lanes': [
        {'seed': seed} for seed in range(3)]})
    write_lines(block / 'metrics.jsonl', [
      {'step': step, 'loss': [shift + lane + 1. / (step + 1)
                              for lane in (0, 1, 2)]} for step in range(5)])
    write_lines(block / 'timing.jsonl', timing(range(1, 5)))
    write(block / 'done.json', {})
  write_lines(folder / 'reversed' / 'sweep' / 'batch_8' / 'lanes_00' /
              'metrics.jsonl', [{'step': 0, 'loss': [9.]}])
  return folder
