"""Data: one `load` for arrays and text, and the order in which a run reads.

What a step sees is a pure function of (seed, step): nothing here holds state,
so a run resumes at any step without replaying the ones before it. Every name
below is cheap to import; TFDS, scikit-learn and Pillow wait for `load`, and JAX
for the first use of what runs on the device.
"""

# Names are imported to be exported.
# flake8: noqa: F401
import importlib
from typing import TYPE_CHECKING, Any

from experiments.data.balancing import balanced_order as balanced_order
from experiments.data.examples import Examples as Examples
from experiments.data.folders import (
    ArgumentError as ArgumentError,
    DataUnavailableError as DataUnavailableError,
)
from experiments.data.loading import load as load
from experiments.data.ordering import order as order
from experiments.data.text import (
    VOCAB_SIZE as VOCAB_SIZE,
    decode_text as decode_text,
    encode_text as encode_text,
)
from experiments.data.transforms import (
    channel_statistics as channel_statistics,
    flip_labels as flip_labels,
    hold_out as hold_out,
    replicate as replicate,
)

if TYPE_CHECKING:
  from experiments.data.augmentation import (
      augment_cifar as augment_cifar,
      standardize as standardize,
  )

_OF_AUGMENTATION = ('augment_cifar', 'standardize')


def __getattr__(name: str) -> Any:
  """Import `augmentation` where a name of it is asked for (PEP 562)."""
  if name not in _OF_AUGMENTATION:
    raise AttributeError(f'{__name__} has no {name!r}')
  return getattr(importlib.import_module('experiments.data.augmentation'), name)
