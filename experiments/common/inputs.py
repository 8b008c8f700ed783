"""The data that flags name, with errors that name the flag.

Nothing here imports JAX, so that wrong data are refused at once.
"""

from typing import Any

from experiments import data
from experiments.common import flags

# The flags that give the arguments of `data.load`.
_FLAGS = {'name': 'dataset', 'data_dir': 'data_dir', 'image_size': 'image_size',
          'label_key': 'noisy_label_key'}


def load_images(config: flags.Config, split: str, **options: Any
                ) -> data.Examples:
  """Load a split of --dataset, at --image_size.

  Raises:
    UsageError: Where a flag names no such data.
    DataUnavailableError: Where the data are not there.
  """
  try:
    examples = data.load(
      config.dataset, split, data_dir=config.data_dir or None,
      image_size=config.image_size or None, **options)
  except data.ArgumentError as error:
    flag = _FLAGS.get(error.argument, 'dataset')
    text = error.allowed if error.argument in _FLAGS else str(error)
    raise flags.UsageError(
      f'--{flag}={flags.shown(getattr(config, flag))}: {text}') from error
  flags.check(config.dataset, 'dataset', 'a set of images',
              lambda _: examples.num_classes is not None)
  return examples


def check_data(config: flags.Config) -> None:
  """Open --dataset and check the flags that depend on its size.

  Nothing but its description is read.
  """
  if config.needs_images():
    config.check_examples(
      len(load_images(config, 'train', max_bytes_in_memory=0)))
