"""The script for accelerators, small and on the CPU."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments.overhead.accelerator import networks, page, tables


@pytest.mark.slow
def test_every_table_has_a_row(tmp_path):
  subprocess.run(
    [sys.executable, '-m', 'experiments.overhead.accelerator', '--small',
     f'--workdir={tmp_path}'], check=True, capture_output=True)
  text = (pathlib.Path(tmp_path) / 'accelerator.jsonl').read_text()
  head, *rows = map(json.loads, text.splitlines())
  assert 'cpu' in head['device']
  assert {row['table'] for row in rows} == {
    'combining', 'elementwise', 'tracking', 'per_example', 'torch'}
  assert all(way['milliseconds'] > 0 for row in rows
             for way in row.get('ways', {}).values() if 'failed' not in way)


@pytest.mark.slow
def test_the_norms_of_each_way_are_those_of_the_examples():
  row = networks.SMALL['mlp']
  (result,) = tables.per_example({'mlp': row})
  for way in ('gradiv_norms', 'vmap', 'gradiv_gram'):
    assert result['ways'][way]['norm_error'] < 1e-5
    assert result['ways'][way]['grad_error'] < 1e-5


def test_the_page_shows_the_record():
  text = pathlib.Path('docs/performance.md').read_text(encoding='utf-8')
  record = pathlib.Path('docs/results/accelerator_h200.jsonl')
  for table in page.tables(record):
    assert table in text
