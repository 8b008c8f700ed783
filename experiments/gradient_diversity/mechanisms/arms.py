"""The arms of `--study=mechanisms`: mechanisms, and wires, by name.

What they do is in `acting`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mechanism:
  """A way to raise gradient diversity, at several strengths.

  Attributes:
    name: Of its folder.
    strengths: One lane each.
    draws: Who may share a draw, where there is a formula for it: 'tied' to the
      example, 'fresh' at each use, or 'shared' by the batch.
  """

  name: str
  strengths: tuple[float, ...]
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
    Mechanism('drop', config.drop_rates),
    Mechanism('noise', config.noise_stddevs),
    *(Mechanism(f'quantize_{levels}', (levels,), ('tied', 'fresh'))
      for levels in config.num_levels)]
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
class Wire:
  """A way to send gradients in fewer bits.

  Attributes:
    name: Of its folder.
    label: For a reader.
    is_sent: Whether gradiv itself sends few bits, which are counted; else the
      bits are those with the coding of its paper.
    feeds_back: Whether each worker keeps an error of its own.
  """

  name: str
  label: str
  is_sent: bool = True
  feeds_back: bool = False


WIRES = (
  Wire('float32', 'float32'),
  Wire('wire_8', '8-bit wire'),
  Wire('wire_4', '4-bit wire'),
  Wire('terngrad', 'TernGrad', is_sent=False),
  Wire('qsgd_1', 'QSGD, 1 level', is_sent=False),
  Wire('natural', 'powers of two', is_sent=False),
  Wire('top_10', 'top 10 %, feedback', is_sent=False, feeds_back=True),
  Wire('top_1', 'top 1 %, feedback', is_sent=False, feeds_back=True),
  Wire('signs', 'signs, feedback', is_sent=False, feeds_back=True),
  Wire('low_rank', 'rank 1, feedback', feeds_back=True))


def wires() -> tuple[Wire, ...]:
  """List the wires, the plain one first."""
  return WIRES
