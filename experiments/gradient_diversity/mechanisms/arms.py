"""The ways that `gradient_diversity` compares: mechanisms, and wires."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments.cost import collectives
from gradiv import compression, perturbations

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
      lambda estimate, rate, d, n, q, draws:
        perturbations.drop_updates_batch_size_bound(
          estimate, rate, n, draws=draws)),
    Mechanism(
      'noise', config.noise_stddevs,
      lambda stddev, key, axis: gradiv.add_langevin_noise(
        stddev, key=key, axis_name=axis),
      lambda estimate, stddev, d, n, q, draws:
        perturbations.langevin_noise_batch_size_bound(
          estimate, stddev, d, n, draws=draws)),
    *(Mechanism(
      f'quantize_{levels}', (levels,),
      lambda _, key, axis, levels=levels: gradiv.quantize_updates(
        levels, key=key, axis_name=axis),
      lambda estimate, _, d, n, q, draws:
        perturbations.quantized_batch_size_bound(
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
    coded_bits: Shapes of the parameters -> bits that a worker sends, as its
      paper codes them; None where gradiv itself sends so few, and they are
      counted. The others only show what the rounding does.
    feeds_back: Whether it keeps an error, of each worker's own.
  """

  name: str
  label: str
  make: Callable[..., Transformation]
  coded_bits: Callable[[list[tuple[int, ...]]], float] | None = None
  feeds_back: bool = False

  def bits(self, shapes: list[tuple[int, ...]], num_workers: int) -> float:
    """Count bits for each parameter: what is sent, of 32 of an all-reduce."""
    size = sum(map(math.prod, shapes))
    if self.coded_bits:
      return self.coded_bits(shapes) / size
    params = [jnp.zeros(shape) for shape in shapes]
    tx = self.make(jax.random.key(0), 'workers')
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
  """A float, and a place within its leaf, for each number that is kept."""
  def bits(shapes):
    sizes = [math.prod(shape) for shape in shapes]
    return sum(math.ceil(share * n) * (32 + math.ceil(math.log2(max(n, 2))))
               for n in sizes)
  return bits


def _level_bits(bits, *, norm_of_each_leaf):
  """So many for each number, and norms as floats."""
  return lambda shapes: bits * sum(map(math.prod, shapes)) + 32 * (
    len(shapes) if norm_of_each_leaf else 1)


def wires() -> list[WireArm]:
  """List the wires, the plain one first."""
  mean = gradiv.aggregate_by_mean
  rounded = lambda **options: lambda key, axis: optax.chain(
    gradiv.quantize_updates(1, key=key, axis_name=axis, **options),
    mean(axis))
  quantized = lambda num_bits: lambda key, axis: (
    gradiv.aggregate_by_quantized_mean(num_bits, axis, key=key))
  ternary = math.log2(3)
  return [
    WireArm('float32', '32 bits', lambda key, axis: mean(axis)),
    WireArm('wire_8', '8-bit wire', quantized(8)),
    WireArm('wire_4', '4-bit wire', quantized(4)),
    WireArm('terngrad', 'TernGrad', rounded(method='max', bucket_size=2**20),
            _level_bits(ternary, norm_of_each_leaf=True)),
    WireArm('qsgd_1', 'QSGD, 1 level', rounded(),
            _level_bits(ternary, norm_of_each_leaf=False)),
    # Sign and exponent.
    WireArm('natural', 'powers of two', rounded(method='natural'),
            lambda shapes: 9. * sum(map(math.prod, shapes))),
    WireArm('top_10', 'top 10 %, feedback',
            _fed_back(lambda: gradiv.keep_top_k(0.1)), _top_k_bits(0.1), True),
    WireArm('top_1', 'top 1 %, feedback',
            _fed_back(lambda: gradiv.keep_top_k(0.01)), _top_k_bits(0.01),
            True),
    WireArm('signs', 'signs, feedback', _fed_back(gradiv.keep_signs),
            _level_bits(1, norm_of_each_leaf=True), True),
    WireArm('low_rank', 'rank 1, feedback',
            lambda key, axis: gradiv.with_error_feedback(
              compression.aggregate_by_low_rank(1, axis, key=key)),
            feeds_back=True),
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

  def measure(i, strength, rows):
    # Draws of its own for each strength, that the errors be apart.
    tx = mechanism.make(strength, jax.random.fold_in(key, i),
                        axis if draws == 'fresh' else None)

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
    lambda each: measure(*each), both))(
      jnp.arange(len(strengths)), strengths, rows)
  return np.asarray(seen.sq_norm, float), np.asarray(seen.variance, float)
