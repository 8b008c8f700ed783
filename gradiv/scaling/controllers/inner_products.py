"""The batch size that passes the inner-product test, and the orthogonality one.

Both need more than `Moments`: how the inner products of the gradients with
their mean vary. A Gram matrix of some gradients holds that, and averages over
products of distinct gradients make everything unbiased.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from gradiv._common import checks
from gradiv.scaling.controllers import controller, ratios


class InnerProductTestState(NamedTuple):
  """State of `InnerProductTest`.

  Attributes:
    batch_size: The batch size to use for the next step.
    num_updates: Number of looks.
    num_changes: Number of times that the batch size was changed.
    scale: An average of the squared mean ‖g‖² up to the last look.
    averages: Averages of the statistics, in units of the scale at their time.
  """

  batch_size: int
  num_updates: int = 0
  num_changes: int = 0
  scale: float = 0.
  averages: ratios.Averages = ratios.Averages()


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerProductTest(controller.Controller):
  """Keep Var⟨g_B, μ⟩ ≤ θ²‖μ‖⁴ by B ≥ μᵀΣμ / (θ²‖μ‖⁴), rounded up.

  μ is ∇F. The test lets a batch be smaller than the norm test does: the noise
  along the gradient alone counts, not all of it. With `nu`, the batch also
  passes the orthogonality test, B ≥ (tr Σ − μᵀΣμ/‖μ‖²) / (ν²‖μ‖²): together
  they are the augmented inner-product test. As products of four gradients are
  averaged, it takes long until anything is known of small ‖μ‖. Bollapragada,
  Byrd, Nocedal, `Adaptive Sampling Strategies for Stochastic Optimization
  <https://arxiv.org/abs/1710.11258>`_, 2018. As published, sample values of one
  batch stand for all moments.

  >>> from gradiv.scaling.controllers import Ladder
  >>> control = InnerProductTest(ladder=Ladder(1, 64), theta=1., decay=.98)
  >>> state, rng = control.init(), np.random.default_rng(0)
  >>> for _ in range(100):  # μ = (2, 0) and Σ = diag(24, 100)
  ...   g = rng.normal(size=(128, 2)) * [24**.5, 10] + [2, 0]
  ...   state, size = control.update(state, g @ g.T)
  >>> size  # 24 · 4 / 4² = 6, where the norm test asks for 31
  8

  Attributes:
    theta: Tolerated relative error θ of the inner product.
    nu: ν, the tolerated tangent of the angle between gradients and ∇F; None
      leaves that test out.
    gradient_batch_size: Number of examples behind each gradient of the Gram
      matrix: 1 for `gradiv.example_gram`.
    decay: Decay β of the averages over looks.
    level: Level of the confidence interval.
  """

  theta: float = 0.9
  nu: float | None = None
  gradient_batch_size: int = 1
  decay: float = 0.95
  level: float = 0.95

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.positive('theta', self.theta)
    if self.nu is not None:
      checks.positive('nu', self.nu)
    checks.count('gradient_batch_size', self.gradient_batch_size, 1)
    checks.between('decay', self.decay, 0, 1)
    checks.between('level', self.level, 0, 1)

  def init(self) -> InnerProductTestState:
    """Return the state before the first look."""
    return InnerProductTestState(self.first)

  def update(
    self, state: InnerProductTestState, gram: jax.typing.ArrayLike
  ) -> tuple[InnerProductTestState, int]:
    """Return the next state and batch size.

    Args:
      state: The present state.
      gram: Inner products of at least four gradients, [n, n], as
        `gradiv.worker_gram` or `gradiv.example_gram` computes them. If one is
        not finite, the look is left out of the averages.
    """
    statistics, square = _statistics(gram)
    averages, scale = state.averages, state.scale
    if np.isfinite(statistics).all() and square > 0:
      # By a scale that is known before the look, no look has too much weight
      # while gradients shrink, and nothing is biased.
      averages = averages.add(
        tuple(statistics / (scale or square)), self.decay)
      scale = scale + (1 - self.decay) * (square - scale) if scale else square
    return self.moved(
      state._replace(averages=averages, scale=scale), self._target(averages),
      up=True)

  def _target(self, averages):
    tests = [((0, 1, -1), self.theta)]
    if self.nu is not None:
      tests.append(((1, -1, 0), self.nu))
    sizes = [self.gradient_batch_size / tolerance**2 * np.array(
      averages.ratio(numerator, (0, 0, 1), self.level))
      for numerator, tolerance in tests]
    return controller.Target(*map(float, np.max(sizes, 0)))


def _statistics(gram):
  """Estimate (tr Σ + G) G, μᵀΣμ + G² and G², and the squared mean ‖g‖².

  They are the means of ⟨g_i, g_i⟩⟨g_j, g_k⟩, ⟨g_i, g_j⟩⟨g_i, g_k⟩ and
  ⟨g_i, g_j⟩⟨g_k, g_l⟩ over distinct indices.
  """
  gram = np.asarray(gram, np.float64)
  n = len(gram)
  if gram.shape != (n, n) or n < 4:
    raise ValueError(
      f'gram of shape {gram.shape}: must be [n, n], n at least 4')
  own = np.diag(gram)
  off = gram - np.diag(own)
  rows, squares = off.sum(1), (off**2).sum(1)
  total, pairs = rows.sum(), np.sum(rows**2 - squares)
  triples = n * (n - 1) * (n - 2)
  return np.array([
    np.sum(own * (total - 2 * rows)) / triples,
    pairs / triples,
    (total**2 - 4 * pairs - 2 * squares.sum()) / (triples * (n - 3)),
  ]), float(np.mean(own))**2
