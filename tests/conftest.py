"""Eight virtual devices, and nothing forgiven, for every test."""

import gc
import os

# With fewer host threads than devices, jaxlib up to 0.10.2 aborts when many
# collective steps are in flight; must be set before jax starts.
os.environ.setdefault('NPROC', '32')
# Programs run for moments here: to optimize the machine code takes longer than
# it saves. What the tests read off compiled programs, the HLO, stays the same.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0')
# No test opens a window or a connection.
os.environ.setdefault('MPLBACKEND', 'Agg')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module', autouse=True)
def forget_garbage():
  """Let the collector look at what is new alone; programs pile up."""
  yield
  gc.collect()
  gc.freeze()
