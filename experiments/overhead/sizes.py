"""The sizes of the networks that are timed; nothing here imports JAX."""

import dataclasses
from typing import Any

from experiments.models import options as options_lib


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of one workload; `options` are those of `model`."""

  model: str
  batch_size: int
  input_shape: tuple[int, ...]
  num_classes: int
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


WORKLOADS: dict[str, Sizes] = {
  'mlp': Sizes('mlp', 128, (784,), 10, {'hidden': (512, 512)}),
  'cnn': Sizes('cnn', 64, (28, 28, 1), 10),
  'small_cnn': Sizes(
    'cnn', 64, (8, 8, 1), 10, {'channels': (8, 16), 'hidden': (32,)}),
  'resnet18': Sizes('resnet18', 8, (32, 32, 3), 10),
  'lstm': Sizes('lstm', 32, (64,), 64),
  'transformer': Sizes('transformer', 16, (128,), 256),
}


def resized(name: str, changes: dict[str, Any]) -> Sizes:
  """Take the sizes of a workload, but for `changes`; others go to the model.

  >>> resized('mlp', {'batch_size': 2, 'hidden': (4,)})
  Sizes(model='mlp', batch_size=2, input_shape=(784,), num_classes=10,
        options={'hidden': (4,)})

  Raises:
    ValueError: On a size that the model, or a batch, cannot have.
  """
  own = {field.name for field in dataclasses.fields(Sizes)} - {
    'options', 'model'}
  options = {k: v for k, v in changes.items() if k not in own}
  sizes = dataclasses.replace(
    WORKLOADS[name], options=WORKLOADS[name].options | options,
    **{k: v for k, v in changes.items() if k in own})
  if not isinstance(sizes.batch_size, int) or sizes.batch_size < 1:
    raise ValueError(f'batch_size is {sizes.batch_size!r}; allowed for '
                     f'{name!r}: an integer from 1 on')
  options_lib.check(sizes.model, sizes.options)
  options_lib.check_shapes(
    sizes.model, sizes.input_shape, sizes.num_classes)
  return sizes
