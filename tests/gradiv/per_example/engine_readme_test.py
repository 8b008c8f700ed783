"""The page that walks one gradient through the engine."""

import contextlib
import io
import pathlib
import re
from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest

from gradiv import per_example
from gradiv.per_example import _engine
from gradiv.per_example._engine import registry

PAGE = pathlib.Path(per_example.__file__).with_name('README.md')
TEXT = PAGE.read_text()


class EngineReadmeTest(absltest.TestCase):

  def test_code_prints_what_its_comments_say(self):
    code = '\n'.join(re.findall(r'```python\n(.*?)```', TEXT, re.S))
    expected = re.findall(r'^print\(.*#\s+(.*)$', code, re.M)
    with (mock.patch.dict(registry._REGISTERED),
          contextlib.redirect_stdout(io.StringIO()) as printed):
      exec(code, {})
    self.assertEqual(printed.getvalue().splitlines(), expected)
    self.assertGreater(len(expected), 2)

  def test_a_linear_rule_turns_a_fallback_into_a_mixture(self):
    def loss_fn(w, x):
      pooled = jax.lax.reduce_window(
        w, 0., jax.lax.add, (2, 1), (2, 1), 'VALID')
      return jnp.sum(jnp.sin(x @ pooled))

    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    rule = r"^registry.register\('reduce_window_sum'.*$"
    (line,) = re.findall(rule, TEXT, re.M)
    kinds = []
    with mock.patch.dict(registry._REGISTERED):
      for code in ('', line):
        exec('from gradiv.per_example._engine import linear, registry\n' + code)
        (row,) = per_example.explain(
          loss_fn, shape(2**12, 2**11), shape(4, 2**11)).rows
        kinds.append(row.rule)
    self.assertEqual(kinds, ['fallback', 'mixture'])

  def test_all_files_are_listed(self):
    table = TEXT.partition('## Files')[2]
    files = {path.stem for path in pathlib.Path(_engine.__file__).parent.glob(
      '[!_]*.py')}
    self.assertEqual(set(re.findall(r'`(\w+)`', table)), files)

  def test_is_short(self):
    lines = TEXT.splitlines()
    self.assertLessEqual(len(lines), 150)
    self.assertEmpty([line for line in lines if len(line) > 100])


if __name__ == '__main__':
  absltest.main()
