"""Eight virtual devices, and nothing forgiven, for every test."""

import atexit
import gc
import os
import tempfile
from importlib import metadata

# With fewer host threads than devices, jaxlib up to 0.10.2 aborts when many
# collective steps are in flight; must be set before jax starts.
os.environ.setdefault('NPROC', '32')
# OpenBLAS threads busy-wait, and take time from the two cores.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Programs run for moments here: to optimize the machine code takes longer than
# it saves. What the tests read off compiled programs, the HLO, stays the same.
_flags = ['--xla_backend_optimization_level=0',
          '--xla_cpu_parallel_codegen_split_count=1']
_version = tuple(map(int, metadata.version('jaxlib').split('.')[:2]))
if _version < (0, 11):  # a later one does not know it
  _flags.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *_flags])
# A run that is resumed, in another process even, is not compiled again. Those
# of one test run share the folder, and it goes with the first of them.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix='gradiv_tests_')
  atexit.register(_cache.cleanup)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache.name
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# Hypothesis writes what constants the source holds, whatever its database is.
if 'HYPOTHESIS_STORAGE_DIRECTORY' not in os.environ:
  _constants = tempfile.TemporaryDirectory(prefix='gradiv_hypothesis_')
  atexit.register(_constants.cleanup)
  os.environ['HYPOTHESIS_STORAGE_DIRECTORY'] = _constants.name
# No test opens a window or a connection.
os.environ.setdefault('MPLBACKEND', 'Agg')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


# Traces make many objects, of which hardly any is garbage: look less often.
gc.set_threshold(50_000, 20, 100)
# Files of these folders share programs, each of which is compiled once.
SHARING = ('tests/contract/', 'tests/gradiv/weightings/')


@pytest.fixture(scope='module', autouse=True)
def forget_garbage():
  """Let the collector look at what is new alone; programs pile up."""
  yield
  gc.collect()
  gc.freeze()


def pytest_collection_modifyitems(items):
  """Begin with what takes long in one process; end with what is short."""
  items.sort(key=lambda item: not item.nodeid.startswith(SHARING))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Send a file, or all files that share programs, to one process."""
  if config.getoption('dist') != 'loadfile':
    return None
  from xdist.scheduler import LoadFileScheduling

  class ByFile(LoadFileScheduling):

    def _split_scope(self, nodeid):
      together = [folder for folder in SHARING if nodeid.startswith(folder)]
      return together[0] if together else super()._split_scope(nodeid)

  config.option.loadscopereorder = False
  return ByFile(config, log)
