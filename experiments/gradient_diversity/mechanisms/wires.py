"""What the wires send: their transformations, and their bits."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments.cost import collectives
from experiments.gradient_diversity.mechanisms.arms import Wire
from gradiv import compression

# Takes a key and the name of an axis.
Make = Callable[..., optax.GradientTransformation]


def make(wire: Wire, key: jax.Array, axis_name: gradiv.AxisName
         ) -> optax.GradientTransformation:
  """Build the transformation of a wire, the mean included."""
  return _MAKES[wire.name](key, axis_name)


def bits(wire: Wire, shapes: list[tuple[int, ...]], num_workers: int) -> float:
  """Count the bits sent for each parameter; an all-reduce sends 32."""
  size = sum(map(math.prod, shapes))
  if not wire.is_sent:
    return _CODED_BITS[wire.name](shapes) / size
  params = [jnp.zeros(shape) for shape in shapes]
  tx = make(wire, jax.random.key(0), 'workers')
  sent = collectives.bytes_traced(
    lambda g: tx.update(g, tx.init(g))[0], num_workers, params)
  return 8 * sent / (2 * (num_workers - 1) / num_workers * size)


def _fed_back(compress):
  def make(key, axis):
    del key
    return optax.chain(gradiv.with_error_feedback(compress()),
                       gradiv.aggregate_by_mean(axis))
  return make


def _top_k_bits(share):
  """Count a float and an index into its leaf for each number that is kept."""
  def bits(shapes):
    sizes = [math.prod(shape) for shape in shapes]
    return sum(math.ceil(share * n) * (32 + math.ceil(math.log2(max(n, 2))))
               for n in sizes)
  return bits


def _level_bits(bits, *, norm_of_each_leaf):
  """Count `bits` for each number, and the norms as floats."""
  return lambda shapes: bits * sum(map(math.prod, shapes)) + 32 * (
    len(shapes) if norm_of_each_leaf else 1)


def _rounded(**options) -> Make:
  return lambda key, axis: optax.chain(
    gradiv.quantize_updates(1, key=key, axis_name=axis, **options),
    gradiv.aggregate_by_mean(axis))


def _quantized(num_bits: int) -> Make:
  return lambda key, axis: gradiv.aggregate_by_quantized_mean(
    num_bits, axis, key=key)


_MAKES: dict[str, Make] = {
  'float32': lambda key, axis: gradiv.aggregate_by_mean(axis),
  'wire_8': _quantized(8),
  'wire_4': _quantized(4),
  'terngrad': _rounded(method='max', bucket_size=2**20),
  'qsgd_1': _rounded(),
  'natural': _rounded(method='natural'),
  'top_10': _fed_back(lambda: gradiv.keep_top_k(0.1)),
  'top_1': _fed_back(lambda: gradiv.keep_top_k(0.01)),
  'signs': _fed_back(gradiv.keep_signs),
  'low_rank': lambda key, axis: gradiv.with_error_feedback(
    compression.aggregate_by_low_rank(1, axis, key=key)),
}
_TERNARY = math.log2(3)
# Shapes of the parameters -> bits that a worker would send with the coding of
# its paper; gradiv sends more.
_CODED_BITS: dict[str, Callable[[list[tuple[int, ...]]], float]] = {
  'terngrad': _level_bits(_TERNARY, norm_of_each_leaf=True),
  'qsgd_1': _level_bits(_TERNARY, norm_of_each_leaf=False),
  # Sign and exponent.
  'natural': lambda shapes: 9. * sum(map(math.prod, shapes)),
  'top_10': _top_k_bits(0.1),
  'top_1': _top_k_bits(0.01),
  'signs': _level_bits(1, norm_of_each_leaf=True),
}
