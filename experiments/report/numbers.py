"""Numbers as people read them."""

import math
from collections.abc import Sequence


def number(x: float | None, unit: str = '', digits: int = 3) -> str:
  """Write a number with `digits` significant digits.

  >>> number(1234.5), number(0.1234), number(0.5, '%'), number(None)
  ('1,234', '0.123', '50.0 %', '–')

  Shares in percent have as many digits as 50.0 % has in all.
  """
  if x is None or math.isnan(x):
    return '–'
  if math.isinf(x):
    return '∞' if x > 0 else '−∞'
  shown = 100 * x if unit == '%' else x
  if unit == '%':  # with three digits, to a tenth of a percent
    zero = f'{0:.{digits - 2}f} %'
    text = f'{shown:.{digits - 2}f} %'.replace('-', '−')
    return zero if text == f'−{zero}' else text
  text = (f'{shown:,.0f}' if abs(shown) >= 10**(digits - 1)
          else f'{shown:.{digits}g}')
  text = text.replace('-', '−') if 'e' not in text else text
  return f'{text} {unit}'.rstrip()


def with_interval(measured: Sequence[float | None], unit: str = '',
                  limits: Sequence[float] = ()) -> str:
  """Write a value with the ends of its interval, where they are known.

  >>> with_interval((0.5, 0.25, 1.)), with_interval((0.5, None, None))
  ('0.5 [0.25, 1]', '0.5')
  >>> found = 0.7, 0.5, 1.002
  >>> with_interval(found), with_interval(found, limits=[1])
  ('0.7 [0.5, 1]', '0.7 [0.5, 1.002]')

  Args:
    measured: The value and both ends.
    unit: Of all of them.
    limits: The ends of a range to compare with. An end of the interval gets
      more digits where it would otherwise read like one of them.
  """
  value = number(measured[0], unit)
  if not all(x is not None and math.isfinite(x) for x in measured):
    return value
  low, high = (_apart(x, unit, limits).removesuffix(f' {unit}')
               for x in measured[1:])
  return f'{value} [{low}, {high}]'


def _apart(x, unit, limits):
  """Write a number so that it does not look like a limit that it is not."""
  for digits in range(3, 7):
    text = number(x, unit, digits)
    if all(x == y or text != number(y, unit, digits) for y in limits):
      return text
  return number(x, unit)  # equal up to rounding


def within(low: float, high: float, unit: str = '') -> str:
  """Write a range that may have no end.

  >>> within(1, 2, '×'), within(0, math.inf), within(-math.inf, 3)
  ('1 × to 2 ×', 'above 0', '≤ 3')
  """
  if math.isinf(high):
    return f'≥ {number(low, unit)}' if low else 'above 0'
  if math.isinf(low):
    return f'≤ {number(high, unit)}'
  return f'{number(low, unit)} to {number(high, unit)}'


def short(x: float) -> str:
  """Write a round number for an axis.

  >>> [short(x) for x in (0, 0.25, 1500, 2e6, 1e-5, -3)]
  ['0', '0.25', '1,500', '2·10⁶', '10⁻⁵', '−3']
  """
  if x == 0 or 1e-3 <= abs(x) < 1e6:
    return f'{x:,.6g}'.replace('-', '−')
  digits, power = f'{x:.2e}'.split('e')
  digits = f'{float(digits):g}'.replace('-', '−')
  power = str(int(power)).translate(
    str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))
  return f'10{power}' if digits == '1' else f'{digits}·10{power}'


def duration(seconds: float) -> str:
  """Write a time.

  >>> duration(3.25), duration(75), duration(7300)
  ('3.2 s', '1 min 15 s', '2 h 1 min')
  """
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {rest} s'
  return f'{minutes // 60} h {minutes % 60} min'
