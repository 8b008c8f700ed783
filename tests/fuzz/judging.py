"""Whether a use of the library ended well: a right result, or a right error."""

import math
import pathlib
import re
import traceback

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from tests import helpers
from tests.contract import drive
from tests.fuzz.drawing import Use

LIBRARY = pathlib.Path(gradiv.__file__).parent
# An error says what is allowed, or what there is in place of it.
_ALLOWED = re.compile(
  r'must|allowed|needs? |do(es)? not fit|one worker on each')
# Rounding of each dtype, as a share of the largest element.
_PRECISION = {'float32': 1e-4, 'bfloat16': 3e-2, 'float16': 4e-3,
              'float64': 1e-4}
# Above this, a number that was drawn may make an update as large.
_MODERATE = 100.0


def judge(use: Use, *, compiled: bool = True) -> str:
  """Use the library; return 'ran' or 'refused', or fail.

  Args:
    use: What was drawn.
    compiled: Whether to compute; else the step is traced alone.
  """
  precise = use.dtype == 'float64'
  jax.config.update('jax_enable_x64', precise)
  try:
    try:
      result = _run(use, compiled)
    except Exception as error:
      _check_error(use, error)
      return 'refused'
    _check_shapes(use, *result)
    if compiled:
      _check_values(use, result[0], result[2])
    return 'ran'
  finally:
    jax.config.update('jax_enable_x64', False)


def _run(use, compiled):
  """Take one step; return the updates, and the state before and after it."""
  row = use.row
  tx, params = row.make(), use.params
  step = drive.step_of(row, tx)
  begin = drive.start(row, tx, params, use.workers)
  if row.kind == 'alone':
    program, grads = step, jax.tree.map(lambda g: g[0], use.grads)
    args = (grads, *begin)
  else:
    in_axes, out_axes = drive.axes_of(row)
    mapped = gradiv.map_workers(
      lambda number, *args: step(*args), 'workers', in_axes=(0, *in_axes),
      out_axes=out_axes, backend=use.backend)
    # An empty tree does not say how many workers there are.
    args = (jnp.arange(use.workers), use.grads, *begin)
    program = mapped
  run = jax.jit(program) if compiled else lambda *args: jax.eval_shape(
    program, *args)
  updates, after, _ = run(*args)
  return updates, begin[0], after


def _check_error(use, error):
  """Fail unless we say which argument or leaf is wrong, and what is right."""
  place = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
  text = str(error)
  is_ours = LIBRARY in place.parents and isinstance(
    error, (ValueError, TypeError))
  names = (*use.row.options, *use.row.numbers, 'workers', 'gradient', 'axis',
           'params', 'updates', 'leaf')
  if not is_ours or not _ALLOWED.search(text) or not any(
      name in text for name in names):
    raise AssertionError(f'{use}: {type(error).__name__} from {place}: {text}'
                         ) from error
  if not use.changed and use.workers == 8:
    raise AssertionError(f'{use} is refused: {text}') from error


def _check_shapes(use, updates, before, after):
  grads = jax.tree.map(lambda g: g[0], use.grads)
  if use.row.kind not in ('wire', 'alone'):
    grads = use.grads
  assert _specs(updates) == _specs(grads), (use, _specs(updates))
  assert _specs(after) == _specs(before), (use, _specs(after), _specs(before))


def _specs(tree):
  leaves, structure = jax.tree.flatten(tree)
  return structure, [(jnp.shape(x), x.dtype) for x in leaves]


def _check_values(use, updates, state):
  grads, row = use.grads, use.row
  leaves = [helpers.raw(x).astype(np.float64) for x in jax.tree.leaves(updates)]
  finite = all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
  has_elements = any(g.size for g in jax.tree.leaves(grads))
  numbers = [float(x) for name in use.changed
             if isinstance(x := row.numbers.get(name, 0.0), (int, float))]
  moderate = all(math.isfinite(x) and abs(x) <= _MODERATE for x in numbers)
  if (finite or row.kind == 'wire') and moderate:
    assert all(np.isfinite(x).all() for x in leaves), (use, updates)
  if row.kind == 'wire' and has_elements and use.content == 'one_nan':
    assert int(state.num_left_out) == 1, (use, state)
  if (row.kind == 'wire' and row.gain is not None and not use.changed
      and use.content == 'equal' and finite):
    gain = row.gain * (use.workers / 8 if row.gain == 8 else 1)
    for u, g in zip(leaves, jax.tree.leaves(grads)):
      expected = gain * helpers.raw(g[0]).astype(np.float64)
      np.testing.assert_allclose(
        u, expected, rtol=0, err_msg=str(use),
        atol=_PRECISION[use.dtype] * np.abs(expected).max(initial=0))
