"""The ways in which a chain can be run; all return the trained parameters."""

import jax
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import gradiv
from gradiv import meshes
from tests.gradiv.meshes import chains


def mesh_of(types, shape=(8,), names=('data',)):
  """Make a mesh of the first devices."""
  devices = np.array(jax.devices()[:int(np.prod(shape))]).reshape(shape)
  return Mesh(devices, names, axis_types=(types,) * len(names))


def by_map_workers(chain, backend, n=8, steps=10):
  """Train by `map_workers`: the reference."""
  tx = chain.make('workers', n, None)
  axes = chain.axes

  def step(params, state, x):
    grads = jax.grad(chains.loss)(params, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  step = gradiv.map_workers(
    step, 'workers', in_axes=(*axes, 0), out_axes=axes, backend=backend)
  params = chains.params()
  params, state = _rows(axes, (params, tx.init(params)), n)
  for x in chains.batches(n, steps):
    params, state = step(params, state, x)
  return params


def by_shard_map(chain, check_vma, shards=1, steps=10):
  """Train in a `jax.shard_map` of one's own.

  With more than one shard, gradients are cut up over 'model', each worker's
  batch is seen by all of its shards, and there are fewer workers.
  """
  n = 8 // shards
  mesh = mesh_of(AxisType.Auto, (n, shards), ('data', 'model'))
  tx = chain.make('data', n, gradiv.Layout(sharded_over='model')
                  if shards > 1 else None)
  specs = chains.SPECS if shards > 1 else P()

  def step(params, state, x):
    params, state = _where(
      chain.axes, lambda x: x[0], (params, state))
    whole = _gathered(params, specs) if shards > 1 else (
      gradiv.as_private(params, 'data'))
    grads = jax.grad(chains.loss)(whole, x[0])
    if shards > 1:
      grads = _own_shard(grads, params)
    updates, state = tx.update(grads, state, params)
    return _where(chain.axes, lambda x: x[None],
                  (optax.apply_updates(params, updates), state))

  params = chains.params()
  full = jax.tree.broadcast(specs, params, is_leaf=_is_spec)
  state = tx.init(params)
  all_specs = _where(chain.axes, lambda s: P('data', *s),
                     (full, _state_specs(state, params, full)))
  step = jax.jit(jax.shard_map(
    step, mesh=mesh, in_specs=(*all_specs, P('data')), out_specs=all_specs,
    check_vma=check_vma))
  params, state = _rows(chain.axes, (params, state), n)
  for x in chains.batches(n, steps):
    params, state = step(params, state, x)
  return params


def by_on_mesh(
    chain, types, shards=1, per_device=1, steps=10, unreduced=False,
    devices=8):
  """Train under plain `jit`, with donation, by `on_mesh`.

  Gradients are taken for each worker, or, if `unreduced`, of parameters that
  are of type `reduced`.
  """
  n = devices // shards * per_device
  names = ('data', 'model') if shards > 1 else ('data',)
  mesh = mesh_of(types, (devices // shards, shards)[:len(names)], names)
  axis = ('data', 'each') if per_device > 1 else 'data'
  specs = chains.SPECS if shards > 1 else P()
  own = chain.private == 'all'
  options = {'private_params': own, 'num_workers': n}
  tx = meshes.on_mesh(chain.make(axis, n, gradiv.Layout(
    sharded_over='model') if shards > 1 else None), mesh, axis, specs,
    **options)
  value_and_grad = meshes.per_worker_value_and_grad(
    chains.loss, mesh, axis, **options)

  def step(params, state, x):
    if unreduced:
      grads = meshes.worker_rows(jax.grad(chains.loss)(jax.sharding.reshard(
        params, NamedSharding(mesh, P(reduced={'data'}))), x))
    else:
      whole = params
      if shards > 1 and types == AxisType.Explicit:
        # The products of this loss would have to say how they lie.
        whole = jax.sharding.reshard(params, jax.tree.map(
          lambda x: NamedSharding(mesh, P('data') if own else P()), params))
      _, grads = value_and_grad(whole, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  step = jax.jit(step, donate_argnums=(0, 1))
  params = chains.params()
  full = jax.tree.broadcast(specs, params, is_leaf=_is_spec)
  if own:
    params = gradiv.replicate(params, n)
  params = jax.device_put(params, jax.tree.map(
    lambda s: NamedSharding(mesh, P('data', *s) if own else s), full,
    is_leaf=_is_spec))
  state = tx.init(params)
  batch = NamedSharding(mesh, P('data'))
  for x in chains.batches(n, steps):
    params, state = step(
      params, state, jax.device_put(x.reshape(-1, 6), batch))
  return params


def _is_spec(x):
  return isinstance(x, P)


def _where(axes, fn, tree):
  """Apply a function where a prefix tree of axes is 0."""
  is_none = lambda x: x is None
  return jax.tree.map(
    lambda axis, part: part if axis is None else jax.tree.map(
      fn, part, is_leaf=_is_spec), axes, tree, is_leaf=is_none)


def _rows(axes, tree, n):
  """Give what is private one row for each worker."""
  return _where(axes, lambda x: gradiv.replicate(x, n), tree)


def _state_specs(state, params, specs):
  """Lay a state out as the parameters, the rest on every device."""
  by_shape = {x.shape: spec for x, spec in zip(
    jax.tree.leaves(params), jax.tree.leaves(specs, is_leaf=_is_spec))}
  return jax.tree.map(lambda x: by_shape.get(x.shape, P()), state)


def _gathered(params, specs):
  """Return all of the parameters, private to the worker."""
  def gather(x, spec):
    for dim, name in enumerate(spec):
      if name:
        x = lax.all_gather(x, name, axis=dim, tiled=True)
    return gradiv.as_private(x, 'data')

  return jax.tree.map(gather, params, specs)


def _own_shard(grads, params):
  """Return the shard of a whole gradient that belongs to a parameter."""
  def cut(g, p):
    for dim, (whole, part) in enumerate(zip(g.shape, p.shape)):
      if whole != part:
        g = lax.dynamic_slice_in_dim(
          g, lax.axis_index('model') * part, part, dim)
    return g

  return jax.tree.map(cut, grads, params)
