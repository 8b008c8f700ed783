"""A run that would not go on to the last bit is refused, with the reason."""

import os
import pathlib
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from experiments import versions
from experiments.engine import identity
from tests import helpers

HERE = pathlib.Path('run')


class NumericsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(os.environ, XLA_FLAGS=''))
    self.before = identity.numerics()

  def refused(self, says):
    with self.assertRaisesRegex(identity.OtherRunError, says) as caught:
      identity.check_numerics(self.before, HERE)
    name = says.split(':')[0].strip()
    self.assertIn(f'--allow_changed={name}', str(caught.exception))
    identity.check_numerics(self.before, HERE, [name])

  def test_the_same(self):
    identity.check_numerics(self.before, HERE)

  def test_double_precision(self):
    with helpers.double_precision():
      self.refused("  x64: stored 'False', now 'True'")

  def test_matmul_precision(self):
    with jax.default_matmul_precision('bfloat16'):
      self.refused("  matmul_precision: stored 'None', now 'bfloat16'")

  def test_xla_flags(self):
    flags = '--xla_cpu_enable_fast_math=true --xla_dump_to=x'
    with mock.patch.dict(os.environ, XLA_FLAGS=flags):
      self.refused("  xla_flags: stored '', now '--xla_cpu_enable_fast_math")

  def test_what_changes_no_number(self):
    flags = '--xla_force_host_platform_device_count=3 --xla_dump_to=x'
    with mock.patch.dict(os.environ, XLA_FLAGS=flags):
      identity.check_numerics(self.before, HERE)

  def test_another_commit_or_package(self):
    with mock.patch.object(versions, 'commit', lambda: 'f00'):
      self.refused("  commit: stored .*, now 'f00'")
    other = versions.packages() | {'jax': '9.9'}
    with mock.patch.object(versions, 'packages', lambda: other):
      self.refused("  jax: stored .*, now '9.9'")


if __name__ == '__main__':
  absltest.main()
