"""Peers that use PyTorch, timed on the same device: Opacus and TorchJD.

  python -m experiments.overhead.accelerator.torch_peers SMALL SECONDS

Prints one JSON line a row. The sizes are those of `networks` and `tables`.
Where a package is not installed, a row says so.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from experiments.overhead.accelerator import networks


def main(small: bool, seconds: float) -> None:
  """Print the rows until time runs out."""
  try:
    import torch
  except ImportError as error:
    print(json.dumps({'failed': str(error)}))
    return
  # As XLA does by default.
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  begun = time.monotonic()
  for work in (torchjd_rows, opacus_rows):
    try:
      for row in work(torch, device, small):
        print(json.dumps({'torch': torch.__version__} | row), flush=True)
        if time.monotonic() - begun > seconds:
          return
    except ImportError as error:
      print(json.dumps({'failed': str(error)}), flush=True)


def torchjd_rows(torch, device, small):
  """Time TorchJD's rules on a matrix [n, D]."""
  from torchjd import aggregation
  sizes = {1000: (4,)} if small else {10**6: (32,), 10**7: (8, 32)}
  for size, counts in sizes.items():
    for n in counts:
      rules = {
        'mean': aggregation.Mean(),
        'upgrad': aggregation.UPGrad(),
        'krum': aggregation.Krum(max(1, n // 4)),
        'trimmed mean': aggregation.TrimmedMean(max(1, n // 4)),
      }
      matrix = torch.randn(n, size, device=device) + 0.1
      yield {'package': 'torchjd', 'n': n, 'D': size, 'ways': {
        name: {'milliseconds': _median(torch, lambda: rule(matrix))}
        for name, rule in rules.items()}}


def opacus_rows(torch, device, small):
  """Time Opacus' norms of examples beside PyTorch's plain step."""
  from opacus import GradSampleModule
  rows = networks.SMALL if small else networks.LARGE
  nn = torch.nn
  for name, model in {
    'mlp': lambda sizes: nn.Sequential(nn.Flatten(), *_dense(nn, sizes)),
    'cnn': lambda sizes: _conv_net(nn, sizes),
  }.items():
    if name not in rows:
      continue
    sizes = rows[name].sizes
    channels_first = (*sizes.input_shape[-1:], *sizes.input_shape[:-1])
    inputs = torch.randn(sizes.batch_size, *channels_first, device=device)
    labels = torch.randint(
      sizes.num_classes, (sizes.batch_size,), device=device)
    plain = model(sizes).to(device)
    hooked = GradSampleModule(model(sizes).to(device))

    def step(module, per_example=False):
      module.zero_grad(set_to_none=True)
      nn.functional.cross_entropy(module(inputs), labels).backward()
      if not per_example:
        return None
      squares = 0.
      for p in module.parameters():
        squares = squares + p.grad_sample.flatten(1).square().sum(1)
        p.grad_sample = None
      return squares

    result = {}
    for way, call in (('plain', lambda: step(plain)),
                      ('opacus', lambda: step(hooked, True))):
      if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
      result[way] = {'milliseconds': _median(torch, call)}
      if device == 'cuda':
        result[way]['peak_mib'] = torch.cuda.max_memory_allocated() / 2**20
    yield {'package': 'opacus', 'row': name, 'ways': result}


def _dense(nn, sizes):
  """Make the layers of the multilayer perceptron."""
  width = int(np.prod(sizes.input_shape))
  for features in sizes.options['hidden']:
    yield nn.Linear(width, features)
    yield nn.ReLU()
    width = features
  yield nn.Linear(width, sizes.num_classes)


def _conv_net(nn, sizes):
  """Make the conv net with the default sizes of `experiments.models`."""
  from experiments.models import options
  default = options.DEFAULTS['cnn']
  first, second = default['channels']
  height, width, depth = sizes.input_shape
  size = second * -(-height // 4) * -(-width // 4)
  layers = [nn.Conv2d(depth, first, 3, padding='same'), nn.ReLU(),
            nn.AvgPool2d(2), nn.Conv2d(first, second, 3, padding='same'),
            nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
  for features in default['hidden']:
    layers += [nn.Linear(size, features), nn.ReLU()]
    size = features
  return nn.Sequential(*layers, nn.Linear(size, sizes.num_classes))


def _median(torch, call: Callable, rounds: int = 5, calls: int = 5) -> float:
  """Time queued calls, several at a time; return milliseconds of one."""
  synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (
    lambda: None)
  times = []
  for _ in range(rounds + 1):
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
      call()
    synchronize()
    times.append((time.perf_counter() - start) / calls)
  return 1e3 * float(np.median(times[1:]))


if __name__ == '__main__':
  main(bool(int(sys.argv[1])), float(sys.argv[2]))
