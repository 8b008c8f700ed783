"""Random numbers that no release of NumPy changes.

NumPy promises to keep the raw stream of a bit generator and the hash of a
`SeedSequence` (NEP 19), but not what `Generator.permutation` or `integers` make
of them. So a permutation here is the order of raw 64-bit words, and a uniform
number their upper 53 bits: the same seed gives the same data in every version.
"""

import operator

import numpy as np

# A stream for each purpose, or the noise would follow the order of the data.
# Append only: the place in this row is part of the key.
_PURPOSES = (
    'epoch', 'replacement', 'replicate', 'flip_choice', 'flip_shift', 'digits',
    'class_choice', 'class_deal', 'holdout')
_LOW = 2 ** 32 - 1


def check_integer(name: str, value, low: int, high: int | None = None) -> int:
  """Return `value` as an int, or say which argument is wrong and why."""
  allowed = f'an integer >= {low}' if high is None else (
      f'an integer from {low} to {high}')
  try:
    number = operator.index(value)
  except TypeError:
    number = None
  # True is an index to Python, and a mistake as a batch size.
  wrong = isinstance(value, (bool, np.bool_)) or number is None
  if wrong or number < low or (high is not None and number > high):
    raise ValueError(f'{name} must be {allowed}, got {value!r}')
  return number


def check_seed(seed) -> int:
  return check_integer('seed', seed, 0, 2 ** 64 - 1)


def raw_words(
    seed: int, purpose: str, size: int, *, index: int = 0, start: int = 0
) -> np.ndarray:
  """Return words `start` to `start + size` of a stream: uint64 [size].

  The stream is Philox4x64 keyed by (seed, purpose, index). Philox counts in
  blocks of four words, so any place in a stream costs the same to reach.
  """
  # Always five words of 32 bits: two different keys can never spell the same.
  words = (seed & _LOW, seed >> 32, _PURPOSES.index(purpose),
           index & _LOW, index >> 32)
  key = np.random.SeedSequence(words).generate_state(2, np.uint64)
  block, skipped = divmod(start, 4)
  bits = np.random.Philox(key=key, counter=block)
  return bits.random_raw(skipped + size)[skipped:]


def permutation(
    seed: int, purpose: str, size: int, *, index: int = 0
) -> np.ndarray:
  """Return a random permutation of range(size): int64 [size]."""
  return np.argsort(raw_words(seed, purpose, size, index=index), kind='stable')


def below(words: np.ndarray, bound: int) -> np.ndarray:
  """Map raw words to uniform integers in [0, bound), to within bound/2^53."""
  unit = (words >> np.uint64(11)).astype(np.float64) * 2.0 ** -53
  return (unit * bound).astype(np.int64)
