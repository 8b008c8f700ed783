"""The names of the networks, their options, and what is allowed.

A command line that is wrong is told so from here, in a tenth of a second: JAX
and Flax are not imported.
"""

import difflib
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

# By name, the options with their defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
  'logistic': {},
  'mlp': {'hidden': (64,), 'activation': 'relu', 'use_bias': True},
  'cnn': {'channels': (16, 32), 'hidden': (64,)},
  'cuda_convnet': {'channels': (64, 64), 'hidden': (384, 192)},
  'resnet18': {'width': 64},
  'lstm': {'embed': 32, 'hidden': 128, 'layers': 1},
  'transformer': {'width': 256, 'heads': 4, 'layers': 4},
}
TOKEN_MODELS = ('lstm', 'transformer')
IMAGE_MODELS = tuple(name for name in DEFAULTS if name not in TOKEN_MODELS)
ACTIVATIONS = ('relu', 'gelu', 'tanh')


def check(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Return the options, lists as tuples.

  >>> check('mlp', {'hidden': [8, 8]})
  {'hidden': (8, 8)}

  Raises:
    ValueError: On a network or an option that there is not, or a bad value.
  """
  if name not in DEFAULTS:
    raise ValueError(f'name is {name!r}; allowed: {", ".join(DEFAULTS)}')
  defaults = DEFAULTS[name]
  checked = {option: _checked(name, option, value)
             for option, value in options.items()}
  sizes = defaults | checked
  if name == 'transformer' and sizes['width'] % sizes['heads']:
    raise ValueError(f'width is {sizes["width"]}; allowed: a multiple of the '
                     f'{sizes["heads"]} heads')
  return checked


def _checked(name, option, value):
  defaults = DEFAULTS[name]
  if option not in defaults:
    near = difflib.get_close_matches(option, defaults, n=1)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(f'{option}={value!r} is no option of {name!r}; allowed: '
                     f'{", ".join(defaults) or "none"}{hint}')
  default = defaults[option]
  value = tuple(value) if isinstance(value, list) else value
  if option == 'activation':
    holds, allowed = value in ACTIVATIONS, ', '.join(ACTIVATIONS)
  elif isinstance(default, bool):
    holds, allowed = isinstance(value, bool), 'true or false'
  elif isinstance(default, tuple):
    is_pair = option == 'channels'
    holds = are_sizes(value) and (not is_pair or len(value) == 2)
    allowed = f'{"two" if is_pair else "some"} positive integers'
  else:
    holds = are_sizes((value,)) and (option != 'width' or value % 2 == 0)
    allowed = f'a positive {"even " if option == "width" else ""}integer'
  if not holds:
    raise ValueError(f'{option} is {value!r}; allowed for {name!r}: {allowed}')
  return value


def are_sizes(value: Any) -> bool:
  """Tell whether this is a non-empty tuple of positive integers."""
  return isinstance(value, tuple) and bool(value) and all(
    isinstance(x, numbers.Integral) and not isinstance(x, bool) and x > 0
    for x in value)


def check_shapes(name: str, input_shape: Sequence[int], num_classes: int
                 ) -> tuple[int, ...]:
  """Return the shape of an example as a tuple.

  Raises:
    ValueError: On a shape that the network does not take, or too few classes.
  """
  shape = tuple(input_shape)
  rank = {'logistic': len(shape), 'mlp': len(shape),
          **dict.fromkeys(TOKEN_MODELS, 1)}.get(name, 3)
  if not are_sizes(shape) or len(shape) != rank:
    raise ValueError(f'input_shape is {shape!r}; allowed for {name!r}: '
                     f'{rank or "some"} positive integers')
  if not are_sizes((num_classes,)) or num_classes < 2:
    raise ValueError(
        f'num_classes is {num_classes!r}; allowed: an integer from 2 on')
  return shape
