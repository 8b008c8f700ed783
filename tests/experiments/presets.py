"""All flag files of the papers, each with the class of flags that it sets."""

import pathlib

from experiments.adascale import config as adascale
from experiments.agreement_filtering import config as agreement_filtering
from experiments.batch_size_control import config as batch_size_control
from experiments.critical_batch import config as critical_batch
from experiments.critical_parameters import config as critical_parameters
from experiments.decentralized import config as decentralized
from experiments.gradient_diversity import __main__ as gradient_diversity

FOLDER = pathlib.Path(__file__).parents[2] / 'experiments'
PRESETS = sorted(FOLDER.glob('*/flags/*.flags'))
CONFIGS = {'adascale': adascale.Config,
            'agreement_filtering': agreement_filtering.Config,
            'batch_size_control': batch_size_control.Config,
            'critical_batch': critical_batch.Config,
            'critical_parameters': critical_parameters.Config,
            'decentralized': decentralized.Config}

# The studies of all papers.
STUDIES = (
  'experiments.adascale.study:AdaScale',
  'experiments.agreement_filtering.study:Filtering',
  'experiments.batch_size_control.study:BatchSizeControl',
  'experiments.critical_batch.study:CriticalBatch',
  'experiments.critical_parameters.study:Critical',
  'experiments.decentralized.study:Decentralized',
  *(study for _, study in gradient_diversity.STUDIES.values()))


def config_of(path):
  """Return the dataclass that a flag file is for."""
  paper = path.parents[1].name
  if paper == 'gradient_diversity':
    study = gradient_diversity.chosen(['main', f'--flagfile={path}'])
    return gradient_diversity.STUDIES[study][0]
  return CONFIGS[paper]


def name_of(path):
  """Name a flag file by its paper and itself."""
  return f'{path.parents[1].name}_{path.stem}'


def every_network():
  """Yield (name, class, flags) of each paper's defaults and each flag file."""
  yield from ((name, cls, []) for name, cls in CONFIGS.items())
  for name, (cls, _) in gradient_diversity.STUDIES.items():
    yield name, cls, [f'--study={name}']
  for path in PRESETS:
    yield name_of(path), config_of(path), [f'--flagfile={path}']
