"""The arms of `--study=mechanisms`: mechanisms, and wires."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
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
    draws: Who may share a draw, where there is a formula for it: 'tied' to the
      example, 'fresh' at each use, or 'shared' by the batch.
  """

  name: str
  strengths: tuple[float, ...]
  make: Callable[..., Transformation]
  bound: Callable
  draws: tuple[str, ...] = ('tied', 'fresh', 'shared')

  @property
  def kind(self) -> str:
    """Return 'drop', 'noise' or 'quantize'."""
    return self.name.split('_')[0]

  def label(self, strength: float) -> str:
    """Name an arm for a reader."""
    if self.kind == 'drop':
      return f'DropConnect, p = {strength:g}' if strength else 'plain mean'
    if self.kind == 'noise':
      return f'noise, σ = {strength:g}'
    return f'rounding, {strength:g} level{"s" * (strength > 1)}'


def mechanisms(config) -> list[Mechanism]:
  """List those of the flags; the first includes the plain mean, a rate of 0.

  Each number of levels is a mechanism, because it shapes a program.
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


@dataclasses.dataclass(frozen=True)
class Arm:
  """A mechanism at one strength, which is one line of a figure."""

  mechanism: Mechanism
  strength: float

  @property
  def label(self) -> str:
    """Name the arm for a reader."""
    return self.mechanism.label(self.strength)


def list_arms(config) -> list[Arm]:
  """List all mechanisms at all strengths, the plain mean first."""
  return [Arm(mechanism, strength) for mechanism in mechanisms(config)
          for strength in mechanism.strengths]


def list_cells(config) -> list[tuple[Arm, str]]:
  """List the settings in which B_S is measured: an arm, and its draws."""
  return [(Arm(mechanism, strength), draws) for mechanism in mechanisms(config)
          for draws in mechanism.draws for strength in mechanism.strengths]


@dataclasses.dataclass(frozen=True)
class WireArm:
  """A way to send gradients in fewer bits.

  Attributes:
    name: Of its folder.
    label: For a reader.
    make: (key, axis name) -> transformation, the mean included.
    coded_bits: Shapes of the parameters -> bits that a worker would send with
      the coding of its paper; gradiv sends more. None where gradiv itself sends
      few bits: those are counted.
    feeds_back: Whether each worker keeps an error of its own.
  """

  name: str
  label: str
  make: Callable[..., Transformation]
  coded_bits: Callable[[list[tuple[int, ...]]], float] | None = None
  feeds_back: bool = False

  def bits(self, shapes: list[tuple[int, ...]], num_workers: int) -> float:
    """Count the bits sent for each parameter; an all-reduce sends 32."""
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
    WireArm('float32', 'float32', lambda key, axis: mean(axis)),
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
