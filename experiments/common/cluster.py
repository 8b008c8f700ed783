"""The flags of a run in several processes, and what a cluster says of them.

Nothing here imports JAX, so that a bad flag is refused at once.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

# What counts the processes of a job, where all of the others are set as well:
# without them, JAX would not find out which process this is.
_CLUSTERS = {
  'SLURM_STEP_NUM_TASKS': ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST',
                           'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID'),
  'OMPI_COMM_WORLD_SIZE': ('OMPI_MCA_orte_hnp_uri', 'OMPI_COMM_WORLD_RANK')}


def is_several(config: Any) -> bool:
  """Tell whether this process is one of several that run one command."""
  if config.num_processes:
    return config.num_processes != 1
  return any(
    int(os.environ.get(count) or 1) > 1 and all(x in os.environ for x in rest)
    for count, rest in _CLUSTERS.items())


def arguments(config: Any) -> dict[str, Any]:
  """Return what `processes.connect` takes; nothing where JAX finds it out."""
  if config.num_processes < 2:
    return {}
  return {name: getattr(config, name) for name in (
    'coordinator_address', 'num_processes', 'process_id')}


def problems(config: Any) -> Iterator[tuple[str, str]]:
  """Yield each flag that does not fit the others, and what it must be."""
  count, process_id = config.num_processes, config.process_id
  address = config.coordinator_address
  if count < -1:
    yield 'num_processes', 'at least -1'
  if count < 2:
    alone = f'left out with --num_processes={count}'
    if address:
      yield 'coordinator_address', alone
    if process_id != -1:
      yield 'process_id', alone
  else:
    if not re.fullmatch(r'(\[.+\]|[^:/\s]+):[0-9]{1,5}', address):
      yield 'coordinator_address', (
        f'host:port of process 0, with --num_processes={count}')
    if not 0 <= process_id < count:
      yield 'process_id', f'from 0 to {count - 1}'
  if not config.report and config.backend != 'shard_map' and (
      is_several(config)):
    yield 'backend', 'shard_map, where several processes train'
