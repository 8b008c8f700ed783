"""A chain of one worker, for a training step under plain `jax.jit`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from gradiv import workers as workers_lib
from gradiv._common import trees
from gradiv.meshes import _state_layout
from gradiv.meshes._mesh_workers import MeshWorkers, is_spec


def on_mesh(
  tx: optax.GradientTransformation,
  mesh: Mesh,
  axis: workers_lib.AxisName,
  specs: Any = P(),
  *,
  private_params: bool = False,
  num_workers: int | None = None,
  extra_args: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Run a chain of one worker on gradients with a leading axis of workers.

  Use it under plain `jax.jit` on a mesh, of Auto or Explicit axes, where no
  axis has a name for collectives. ``update`` takes the gradients of all
  workers, [n, ...], as `per_worker_value_and_grad` returns them; the program
  that is compiled has the collectives of `map_workers` and no others. Which
  leaves of the state are private to a worker is found by tracing the chain:
  they have a leading axis of n rows. The state is cut up over further axes of
  the mesh as the parameters are.

  Args:
    tx: The chain; its transformations name `axis`.
    mesh: The mesh.
    axis: Axis, or axes, of the mesh along which workers lie. With a last name
      that is no axis of the mesh, there are several workers on each device,
      and that name counts them, as in `map_workers`.
    specs: How parameters, and each worker's gradient, are cut up over other
      axes of the mesh: PartitionSpecs, as a prefix tree of the parameters.
      Aggregation rules must know it too (`gradiv.Layout.sharded_over`).
    private_params: Whether each worker has parameters of its own, as with
      `mix_by_gossip`. Parameters and updates then are [n, ...].
    num_workers: Number of workers, where several lie on each device.
    extra_args: Examples of extra arguments that ``update`` requires, so that
      ``init`` can trace it.

  Returns:
    A transformation. Its ``update`` takes extra arguments that are the same
    for all workers. Both functions raise ValueError, while tracing, if the
    gradients do not have n rows, or if something differs between workers or
    shards that the layout says is the same.

  >>> import gradiv
  >>> mesh = jax.make_mesh((jax.device_count(),), ('data',))
  >>> tx = on_mesh(optax.chain(
  ...   gradiv.aggregate_by_mean('data'), optax.sgd(1.)), mesh, 'data')
  >>> params = jnp.zeros(2)
  >>> grads = jnp.ones((jax.device_count(), 2))
  >>> updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
  >>> updates.tolist()  # minus the mean of all workers' gradients
  [-1.0, -1.0]
  """
  chain = _OnMesh(
    optax.with_extra_args_support(tx), MeshWorkers.of(mesh, axis, num_workers),
    specs, private_params, dict(extra_args or {}))
  return optax.GradientTransformationExtraArgs(chain.init, chain.update)


@dataclasses.dataclass(frozen=True)
class _OnMesh:
  """The arguments of `on_mesh`, checked."""

  tx: optax.GradientTransformationExtraArgs
  workers: MeshWorkers
  specs: Any
  private_params: bool
  extra: dict[str, Any]

  def init(self, params: optax.Params) -> Any:
    """Create the state, laid out on the mesh."""
    one = self._one(params, 'params') if self.private_params else (
      jax.eval_shape(lambda: params))
    specs, whole, state_specs = self._layout(one)
    private = _state_layout.find_private(
      self.tx, one, whole, specs, state_specs, self.workers,
      self.private_params, self.extra)
    lead = jax.tree.map(self.workers.lead, private, state_specs)
    make = functools.partial(self._make, private=private)
    shardings = self._shardings(lead)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params)):
      return self._lay_out(make, lead)(params)
    if jax.process_count() == 1:
      params = jax.device_put(params, self._shardings(jax.tree.map(
        functools.partial(self.workers.lead, self.private_params), specs,
        is_leaf=is_spec)))
    return jax.jit(self._lay_out(make, lead), out_shardings=shardings)(params)

  def update(
    self, updates: optax.Updates, state: optax.OptState,
    params: optax.Params | None = None, **extra: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    """Run the chain on every worker, where its gradient lies."""
    one = self._one(updates, 'grads')
    like = one if params is None else jax.tree.map(
      lambda g, p: jax.ShapeDtypeStruct(g.shape, p.dtype), one, params)
    specs, whole, state_specs = self._layout(like)
    private = self._private(whole, state)
    self._check(like, whole, specs, state_specs, private, extra)
    lead = lambda own: jax.tree.map(
      functools.partial(self.workers.lead, own), specs,
      is_leaf=is_spec)
    own_params = lead(self.private_params)
    state_lead = jax.tree.map(self.workers.lead, private, state_specs)
    arrays, rebuild = trees.split_arrays(extra)
    in_specs = (lead(True), state_lead,
                None if params is None else own_params, [P()] * len(arrays))
    run = jax.shard_map(
      functools.partial(self._block, private, rebuild),
      mesh=self.workers.mesh, check_vma=False,
      in_specs=in_specs, out_specs=(own_params, state_lead))
    return run(*self._placed((updates, state, params, arrays), in_specs))

  def _block(self, private, rebuild, grads, state, params, arrays):
    """Update the workers of one device."""
    extra = rebuild(arrays)
    if len(self.workers.names) == len(self.workers.axes):
      row = lambda own, tree: _map_if(own, lambda x: x[0], tree)
      updates, state = self.tx.update(
        row(True, grads), _map_where(private, lambda x: x[0], state),
        row(self.private_params, params), **extra)
      return (_map_if(self.private_params, lambda x: x[None], updates),
              _map_where(private, lambda x: x[None], state))
    axes = jax.tree.map(lambda own: 0 if own else None, private)
    own_params = 0 if self.private_params else None
    return jax.vmap(
      lambda g, s, p: self.tx.update(g, s, p, **extra),
      in_axes=(0, axes, own_params), out_axes=(own_params, axes),
      axis_name=self.workers.names[-1])(grads, state, params)

  def _placed(self, tree, specs):
    """Bring arguments to where the workers are, if types say where they lie."""
    if not self.workers.is_explicit:
      return tree
    return jax.sharding.reshard(tree, self._shardings(specs))

  def _lay_out(self, make, specs):
    """Let a function of the parameters return arrays that lie on the mesh."""
    mesh = self.workers.mesh
    if not self.workers.is_explicit:
      return lambda params: jax.lax.with_sharding_constraint(
        make(params), self._shardings(specs))

    def run(params):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.sharding.auto_axes(make, out_sharding=specs)(params)

    return run

  def _make(self, params, private):
    """Create the state of all workers from their parameters."""
    n = self.workers.count
    if not self.private_params:
      copies = lambda x: workers_lib.replicate(x, n)
      return _map_where(private, copies, self.tx.init(params))
    rows = jax.vmap(self.tx.init, axis_size=n)(params)
    return jax.tree.map(lambda own, x: x if own else x[0], private, rows)

  def _layout(self, one):
    specs = _state_layout.full_specs(self.specs, one, self.workers)
    return specs, *_state_layout.state_specs(
      self.tx.init, one, specs, self.workers)

  def _shardings(self, specs):
    return jax.tree.map(lambda s: NamedSharding(self.workers.mesh, s), specs,
                        is_leaf=is_spec)

  def _one(self, tree, argument):
    """Return the shapes of one worker's row."""
    n = self.workers.count

    def one(path, x):
      if jnp.shape(x)[:1] != (n,):
        raise ValueError(
          f'{argument}{jax.tree_util.keystr(path)} of shape {jnp.shape(x)}: '
          f'must have a leading axis of {n} workers')
      return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)

  def _private(self, whole, state):
    """Read off the shapes of a state which of its leaves are private."""
    n = self.workers.count

    def is_private(path, one, x):
      if x.shape not in (one.shape, (n, *one.shape)):
        raise ValueError(
          f'state{jax.tree_util.keystr(path)} of shape {x.shape}: must be '
          f'{one.shape}, or have {n} such rows, as init of on_mesh makes it')
      return x.ndim > one.ndim

    return jax.tree_util.tree_map_with_path(is_private, whole, state)

  def _check(self, params, whole, specs, state_specs, private, extra):
    types = _state_layout.update_types(
      self.tx, params, whole, specs, state_specs, private, self.workers,
      self.private_params, extra)
    own = jax.tree.map(lambda _: self.private_params, params)
    check = functools.partial(_state_layout.check_types, self.workers)
    check('updates', types[0], specs, own)
    check('state', types[1], state_specs, private)


def _map_if(condition, fn, tree):
  return jax.tree.map(fn, tree) if condition else tree


def _map_where(conditions, fn, tree):
  return jax.tree.map(lambda c, x: fn(x) if c else x, conditions, tree)
