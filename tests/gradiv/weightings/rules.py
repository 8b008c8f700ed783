"""Every rule by name, each compiled once per size for all tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gradiv import weightings as w

KEY = jax.random.key(7)

RULES = {
  'mean': w.mean(),
  'norm_clipping': w.norm_clipping(2.5),
  'watched mean': w.with_alarm(w.mean()),
  'krum': w.krum(1),
  'multi_krum': w.krum(1, 2, power=1),
  'geometric_median': w.geometric_median(),
  'minimum_diameter': w.minimum_diameter(1),
  'centered_clipping': w.centered_clipping(.5, 4),
  'mixing': w.nearest_neighbor_mixing(1),
  'mixed_median': w.nearest_neighbor_mixing(1, w.geometric_median()),
  'mixed_clipping': w.nearest_neighbor_mixing(1, w.centered_clipping(.5)),
  'agreement': w.agreement(.9),
  'leave_one_out': w.agreement(.9, combine='leave_one_out'),
  'max_neighbors': w.max_neighbors(.3),
  'adasum': w.adasum(),
  'adacons': w.adacons(.9),
  'pcgrad': w.pcgrad(),
  'gradvac': w.gradvac(),
  'upgrad': w.upgrad(),
  'dual_proj': w.dual_proj(),
  'mgda': w.mgda(),
  'cagrad': w.cagrad(.5),
  'wide cagrad': w.cagrad(1.5),
  'nash_mtl': w.nash_mtl(),
  'free nash_mtl': w.nash_mtl(None),
  'imtl_g': w.imtl_g(),
  'conflict_free': w.conflict_free(),
  'aligned_mtl': w.aligned_mtl(),
  'median aligned_mtl': w.aligned_mtl('median'),
  'rmse aligned_mtl': w.aligned_mtl('rmse'),
  'fairgrad': w.fairgrad(2.),
  'cr_mogm': w.cr_mogm(w.mgda()),
  'modo': w.modo(),
  'sdmgrad': w.sdmgrad(step_size=1.),  # 10 amplifies rounding
  'pcd': w.pcd(.5),
}
RANDOM = tuple(name for name, rule in RULES.items() if rule.needs_key)
LOSSES = tuple(RULES)[tuple(RULES).index('pcgrad'):]


@functools.lru_cache
def compiled(make, *args):
  """Compile a rule that only one test uses."""
  return jax.jit(make(*args).__call__)


@functools.cache
def _step(name):
  return jax.jit(RULES[name].step)


def step(name, gram, present=None, state=None, key=KEY):
  """Take one compiled step, with absent rows and columns cleared."""
  rule = RULES[name]
  n = len(gram) - rule.num_extra
  present = np.ones(n, bool) if present is None else np.asarray(present)
  kept = np.append(present, np.ones(rule.num_extra, bool))
  state = rule.init(n) if state is None else state
  gram = jnp.asarray(np.where(np.outer(kept, kept), gram, 0), jnp.float32)
  weights, state = _step(name)(gram, jnp.asarray(present), state, key)
  return np.where(kept, weights, 0), state


def weigh(name, gram, present=None):
  return step(name, gram, present)[0]


def update(name, rows):
  """Return Σ w_i g_i for gradients as rows."""
  return weigh(name, rows @ rows.T).astype(float) @ rows


def jit_step(rule):
  """Compile the step of a rule that only one test uses."""
  return jax.jit(rule.step)
