"""Sort the workers' values at each coordinate by a fixed network.

`jax.numpy.sort` along the axis of workers sorts d short vectors, one after the
other. A network compares whole rows: each comparison is a minimum and a
maximum of two rows, which the compiler fuses into one pass over the data.
"""

import functools

import jax
import jax.numpy as jnp

# A network of n rows has some n (log₂ n)² / 4 comparisons, which take longer to
# compile than they save if there are many.
LARGEST_NETWORK = 64


def weighted_sum_of_sorted(
  rows: jax.Array, present: jax.Array, weights: jax.Array
) -> jax.Array:
  """Sort each coordinate, and sum the sorted values with weights.

  >>> rows = jnp.array([[3.], [9.], [1.], [5.]])
  >>> present = jnp.array([True, False, True, True])
  >>> weighted_sum_of_sorted(rows, present, jnp.array([0., 1., 0., 0.]))
  Array([3.], dtype=float32)

  The second smallest of 1, 3 and 5 is 3.

  Args:
    rows: The values, [n, d].
    present: Which rows take part, [n].
    weights: Weight of the k-th smallest value, [n]; zero for every k from the
      number of present rows on.

  Returns:
    The sums, [d].
  """
  values = sort([jnp.where(present[i], row, jnp.inf)
                 for i, row in enumerate(rows)])
  total = jnp.zeros_like(rows[0])
  for weight, value in zip(weights, values):
    total += jnp.where(weight > 0, weight * value, 0)
  return total


def sort(rows: list[jax.Array]) -> list[jax.Array]:
  """Sort rows of equal shape, coordinate by coordinate, smallest first.

  >>> sort([jnp.array([3., 1.]), jnp.array([2., 4.])])
  [Array([2., 1.], dtype=float32), Array([3., 4.], dtype=float32)]
  """
  if len(rows) > LARGEST_NETWORK:
    return list(jnp.sort(jnp.stack(rows), axis=0))
  rows = list(rows)
  for i, j in network(len(rows)):
    rows[i], rows[j] = jnp.minimum(rows[i], rows[j]), jnp.maximum(
      rows[i], rows[j])
  return rows


@functools.cache
def network(n: int) -> tuple[tuple[int, int], ...]:
  """List the comparisons that sort n values: Batcher's odd-even merge sort.

  Each is a pair of places; the smaller value goes to the first. *Batcher,
  `Sorting networks and their applications
  <https://doi.org/10.1145/1468075.1468121>`_, 1968*.

  >>> network(3)
  ((0, 1), (0, 2), (1, 2))
  """
  pairs, run = [], 1
  while run < n:
    distance = run
    while distance >= 1:
      for start in range(distance % run, n - distance, 2 * distance):
        for place in range(start, min(start + distance, n - distance)):
          other = place + distance
          if place // (2 * run) == other // (2 * run):  # of the same two runs
            pairs.append((place, other))
      distance //= 2
    run *= 2
  return tuple(pairs)
