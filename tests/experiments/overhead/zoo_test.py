"""The zoo on a model that needs no further package, and its page."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import flags
from experiments.overhead.zoo import __main__ as command, measuring, page, table


def test_the_flags_are_checked():
  assert command.Config(models=('mlp', 'gru')).models == ('mlp', 'gru')
  with pytest.raises(flags.UsageError, match='each once'):
    command.Config(models=('mlp', 'mlp'))


def test_a_model_is_measured():
  def make():
    rng = np.random.default_rng(0)
    net = lambda p, x: jnp.tanh(jnp.tanh(x @ p['w']) @ p['v'])
    return table.Problem(
      lambda p, x: jnp.mean(jnp.square(net(p, x))),
      {'w': rng.normal(size=(6, 5)).astype(np.float32),
       'v': rng.normal(size=(5, 2)).astype(np.float32)},
      rng.normal(size=(4, 3, 6)).astype(np.float32))

  row = measuring.measure(table.Model('net', 'jax', make))
  assert row['error'] < 1e-5
  assert row['parameters'] == 40
  assert row['in_products'] == 1
  assert row['flops'] >= 1


def test_an_error_is_seen():
  problem = table.Problem(
    lambda w, x: jnp.sum(jnp.sin(w * x)), np.ones(3, np.float32),
    np.arange(6, dtype=np.float32).reshape(2, 3))
  other = problem._replace(loss=lambda w, x: jnp.sum(jnp.cos(w * x)))
  from gradiv import example_moments
  found = example_moments(other.loss)(problem.params, problem.batch)
  assert measuring.error(problem, found) > 1e-2
  assert measuring.error(other, found) < 1e-5


def test_the_page_shows_the_record():
  text = pathlib.Path('docs/performance.md').read_text(encoding='utf-8')
  rows = page.read(pathlib.Path('docs/results/zoo.jsonl'))
  assert page.table(rows) in text
