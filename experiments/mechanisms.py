"""The ways that `gradient_diversity` compares: mechanisms, and wires."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv

Transformation = optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Mechanism:
  """A way to raise gradient diversity, at several strengths.

  Attributes:
    name: Of its folder.
    strengths: One lane each.
    make: (strength, key, axis name) -> transformation.
    bound: (estimate, strength, number of parameters, number of examples,
      mean quantized ‖g‖², draws) -> B_S.
    draws: The conventions that have a closed form.
  """

  name: str
  strengths: tuple[float, ...]
  make: Callable[..., Transformation]
  bound: Callable
  draws: tuple[str, ...] = ('tied', 'fresh', 'shared')


def mechanisms(config) -> list[Mechanism]:
  """List those of the flags; the first includes the plain mean, a rate of 0.

  The number of levels shapes a program, so that each is one of its own.
  """
  listed = [
    Mechanism(
      'drop', config.drop_rates,
      lambda rate, key, axis: gradiv.drop_updates(
        rate, key=key, axis_name=axis),
      lambda estimate, rate, d, n, q, draws: gradiv.drop_updates_bound(
        estimate, rate, n, draws=draws)),
    Mechanism(
      'noise', config.noise_stddevs,
      lambda stddev, key, axis: gradiv.add_langevin_noise(
        stddev, key=key, axis_name=axis),
      lambda estimate, stddev, d, n, q, draws: gradiv.langevin_noise_bound(
        estimate, stddev, d, n, draws=draws)),
    *(Mechanism(
      f'quantize_{levels}', (levels,),
      lambda _, key, axis, levels=levels: gradiv.quantize_updates(
        levels, key=key, axis_name=axis),
      lambda estimate, _, d, n, q, draws: gradiv.quantized_bound(
        estimate, q, n, draws=draws), ('tied', 'fresh'))
      for levels in config.num_levels),
  ]
  return [mechanism for mechanism in listed if mechanism.strengths]


def describe(name: str, strength: float) -> str:
  """Name a cell for a reader."""
  if name == 'drop':
    return f'DropConnect p={strength:g}' if strength else 'plain mean'
  if name == 'noise':
    return f'noise σ={strength:g}'
  return f'{strength:g} level' + ('s' if strength > 1 else '')


@dataclasses.dataclass(frozen=True)
class WireArm:
  """A way to send gradients in fewer bits.

  Attributes:
    name: Of its folder.
    label: For a reader.
    make: (key, axis name) -> transformation, the mean included.
    bits: Shapes of the parameters -> bits a number that a worker sends in, as
      coded by its paper; a float is 32.
    feeds_back: Whether it keeps an error, of each worker's own.
    is_sent: Whether gradiv itself sends so few, or only shows what they do.
  """

  name: str
  label: str
  make: Callable[..., Transformation]
  bits: Callable[[list[tuple[int, ...]]], float]
  feeds_back: bool = False
  is_sent: bool = False


def _fed_back(compress):
  def make(key, axis):
    del key
    return optax.chain(gradiv.with_error_feedback(compress()),
                       gradiv.aggregate_by_mean(axis))
  return make


def _size(shapes):
  return sum(map(math.prod, shapes))


def _top_k_bits(share):
  """A float and its place for each number that is kept."""
  def bits(shapes):
    kept = sum(math.ceil(share * math.prod(s))
               * (32 + math.ceil(math.log2(max(math.prod(s), 2))))
               for s in shapes)
    return kept / _size(shapes)
  return bits


def _low_rank_bits(rank):
  def bits(shapes):
    total = 0
    for shape in shapes:
      size = math.prod(shape)
      thin = (rank * (size // shape[-1] + shape[-1]) if len(shape) > 1
              else size)
      total += min(thin, size)
    return 32 * total / _size(shapes)
  return bits


def wires() -> list[WireArm]:
  """List the wires, the plain one first."""
  mean = gradiv.aggregate_by_mean
  rounded = lambda **options: lambda key, axis: optax.chain(
    gradiv.quantize_updates(1, key=key, axis_name=axis, **options),
    mean(axis))
  quantized = lambda num_bits: lambda key, axis: (
    gradiv.aggregate_by_quantized_mean(num_bits, axis, key=key))
  scaled = lambda num_bits: lambda shapes: num_bits + 32 / 256
  return [
    WireArm('float32', '32 bits', lambda key, axis: mean(axis),
            lambda shapes: 32., is_sent=True),
    WireArm('wire_8', '8-bit wire', quantized(8), scaled(8), is_sent=True),
    WireArm('wire_4', '4-bit wire', quantized(4), scaled(4), is_sent=True),
    # log₂ 3 bits for each of three levels, and a norm.
    WireArm('terngrad', 'TernGrad', rounded(method='max', bucket_size=2**20),
            lambda shapes: math.log2(3)),
    WireArm('qsgd_1', 'QSGD, 1 level', rounded(), lambda shapes: math.log2(3)),
    WireArm('natural', 'powers of two', rounded(method='natural'),
            lambda shapes: 9.),  # sign and exponent
    WireArm('top_10', 'top 10 %, feedback',
            _fed_back(lambda: gradiv.keep_top_k(0.1)), _top_k_bits(0.1),
            feeds_back=True),
    WireArm('top_1', 'top 1 %, feedback',
            _fed_back(lambda: gradiv.keep_top_k(0.01)), _top_k_bits(0.01),
            feeds_back=True),
    WireArm('signs', 'signs, feedback', _fed_back(gradiv.keep_signs),
            lambda shapes: 1 + 32 * len(shapes) / _size(shapes),
            feeds_back=True),
    WireArm('low_rank', 'rank 1, feedback',
            lambda key, axis: gradiv.with_error_feedback(
              gradiv.aggregate_by_low_rank(1, axis, key=key)),
            _low_rank_bits(1), feeds_back=True, is_sent=True),
  ]


def measure_bounds(
  grads: optax.Updates, mechanism: Mechanism, draws: str, rows: np.ndarray,
  key: jax.Array,
) -> tuple[np.ndarray, np.ndarray]:
  """Estimate ‖∇F‖² and tr Σ of noisy gradients: [strengths, batches] each.

  Args:
    grads: [n, ...], of each example.
    mechanism: What disturbs them.
    draws: 'tied' to the example, 'fresh', or 'shared' by the batch.
    rows: [strengths, batches, b], which examples each batch holds; some may be
      twice.
    key: Of the draws.
  """
  axis = 'examples'

  def measure(strength, rows):
    tx = mechanism.make(strength, key, axis if draws == 'fresh' else None)

    def one(state, place):
      g = jax.tree.map(lambda x: x[place], grads)
      extra = {'example_index': place} if draws == 'tied' else {}
      noisy, state = tx.update(g, state, **extra)
      return gradiv.worker_moments(noisy, axis), state

    def step(state, places):
      moments, state = jax.vmap(
        one, (None, 0), axis_name=axis, out_axes=None)(state, places)
      return state, gradiv.estimate(moments)

    start = tx.init(jax.tree.map(lambda g: g[0], grads))
    return jax.lax.scan(step, start, rows)[1]

  strengths = jnp.asarray(mechanism.strengths, jnp.float32)
  seen = jax.jit(lambda *both: jax.lax.map(
    lambda each: measure(*each), both))(strengths, rows)
  return np.asarray(seen.sq_norm, float), np.asarray(seen.variance, float)
