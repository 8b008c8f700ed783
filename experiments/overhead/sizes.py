"""The sizes of the networks that are timed; nothing here imports JAX."""

import dataclasses
from typing import Any

from experiments.models import options as options_lib


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of one workload; `options` are those of the model."""

  batch_size: int
  input_shape: tuple[int, ...]
  num_classes: int
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


WORKLOADS: dict[str, Sizes] = {
  'mlp': Sizes(128, (784,), 10, {'hidden': (512, 512)}),
  'cnn': Sizes(64, (28, 28, 1), 10),
  'resnet18': Sizes(8, (32, 32, 3), 10),
  'lstm': Sizes(32, (64,), 64),
  'transformer': Sizes(16, (128,), 256),
}


def resized(name: str, changes: dict[str, Any]) -> Sizes:
  """Take the sizes of a workload, but for `changes`; others go to the model.

  >>> resized('mlp', {'batch_size': 2, 'hidden': (4,)})
  Sizes(batch_size=2, input_shape=(784,), num_classes=10,
        options={'hidden': (4,)})

  Raises:
    ValueError: On a size that the model, or a batch, cannot have.
  """
  own = {field.name for field in dataclasses.fields(Sizes)} - {'options'}
  options = {k: v for k, v in changes.items() if k not in own}
  sizes = dataclasses.replace(
    WORKLOADS[name], options=WORKLOADS[name].options | options,
    **{k: v for k, v in changes.items() if k in own})
  if not isinstance(sizes.batch_size, int) or sizes.batch_size < 1:
    raise ValueError(f'batch_size is {sizes.batch_size!r}; allowed for '
                     f'{name!r}: an integer from 1 on')
  options_lib.check(name, sizes.options)
  options_lib.check_shapes(name, sizes.input_shape, sizes.num_classes)
  return sizes
