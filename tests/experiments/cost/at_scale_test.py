"""The model of exchanges at scale, against compiled programs and routing."""

import itertools
import pathlib
from collections import Counter

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import gradiv
from experiments.cost import collectives
from experiments.cost.at_scale import exchanges, networks, tables
from experiments.overhead import aggregation
from gradiv import topology

SIZE, LEAVES = 2**20, 4
AXIS = aggregation.AXIS
# The names here by the names there.
WAYS = {
  'mean': 'mean',
  'mean with tracked moments': 'tracked mean',
  'Gram matrix': 'Gram matrix',
  'a rule of the Gram matrix': 'agreement',
  '8-bit mean': '8-bit mean',
  '4-bit mean': '4-bit mean',
  'a rule that gathers all gradients': 'agreement, gathered',
}


def gradients(mesh):
  """Return gradients of SIZE numbers on each device of a mesh."""
  rows = NamedSharding(mesh, P(mesh.axis_names))
  return {f'leaf_{i}': jax.device_put(
    np.ones((mesh.size, SIZE // LEAVES), 'f'), rows) for i in range(LEAVES)}


def sent(exchange, n):
  return sum(collective.sent(n) for collective in exchange.collectives)


@pytest.mark.parametrize('n', [2, pytest.param(4, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize('name', [
  pytest.param(name, marks=pytest.mark.slow if 'bit' in name else ())
  for name in (*WAYS, 'gossip on a ring')])
def test_bytes_are_those_of_the_compiled_program(name, n):
  mesh = Mesh(np.array(jax.devices()[:n]), (AXIS,))
  way = aggregation.WAYS[WAYS[name]] if name in WAYS else aggregation.Way(
    lambda: gradiv.mix_by_gossip(topology.ring(n), AXIS), True)
  step = aggregation.compile_step(way, gradients(mesh), mesh)
  counted = collectives.bytes_sent(step.program.as_text(), n)
  assert sent(exchanges.FLAT[name](SIZE, n), n) == pytest.approx(
    counted, rel=0.02)


def hierarchical(name):
  """Return a hierarchical way, as a function of a device's gradient."""
  def rule(grads, axis, **layout):
    tx = gradiv.aggregate_by_agreement(
      1.0, axis, layout=gradiv.Layout(**layout))
    return tx.update(grads, tx.init(grads))[0]

  def rule_inside(grads):
    return jax.lax.pmean(rule(grads, 'inside'), 'between')

  def rule_of_means(grads):
    return rule(grads, 'between', mean_over='inside')

  def rule_of_slices(grads):
    slices = jax.tree.map(lambda g: jax.lax.psum_scatter(
      g, 'inside', tiled=True), grads)
    slices = rule(slices, 'between', sharded_over='inside')
    return jax.tree.map(lambda g: jax.lax.all_gather(
      g, 'inside', tiled=True), slices)

  return dict(zip(exchanges.HIERARCHICAL, (
    rule_inside, rule_of_means, rule_of_slices)))[name]


@pytest.mark.parametrize('name', exchanges.HIERARCHICAL)
def test_bytes_of_hierarchies_are_those_of_the_compiled_program(name):
  mesh = jax.make_mesh((2, 4), ('inside', 'between'),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)
  if name == 'rule inside, mean between':  # as with two, a rule is a mean
    mesh = jax.make_mesh((4, 2), ('inside', 'between'),
                         axis_types=(jax.sharding.AxisType.Auto,) * 2)
  step = hierarchical(name)
  program = jax.jit(jax.shard_map(
    lambda grads: step(jax.tree.map(lambda g: g[0], grads)),
    mesh=mesh, in_specs=P(mesh.axis_names), out_specs=P(),
    check_vma=False)).lower(gradients(mesh)).compile()
  exchange = exchanges.HIERARCHICAL[name](SIZE, *mesh.devices.shape)
  sizes = {'all': mesh.size, 'group': mesh.shape['inside'],
           'of each': mesh.shape['between']}
  assert sum(x.sent(sizes[x.part]) for x in exchange.collectives
             ) == pytest.approx(
    collectives.bytes_sent(program.as_text()), rel=0.02)


def route(sides):
  """Send one byte between all pairs, and count what crosses each link.

  Along each dimension in turn by the shorter way, half each way where both are
  as short.
  """
  loads = Counter()
  chips = list(itertools.product(*map(range, sides)))
  for start, end in itertools.product(chips, chips):
    at = list(start)
    for axis, side in enumerate(sides):
      ahead = (end[axis] - at[axis]) % side
      ways = [(1, ahead, 1.0)] if ahead * 2 < side else (
        [(-1, side - ahead, 1.0)] if ahead * 2 > side
        else [(1, ahead, 0.5), (-1, ahead, 0.5)])
      for direction, hops, share in ways:
        place = list(at)
        for _ in range(hops):
          link = -direction if side == 2 and direction < 0 else direction
          loads[tuple(place), axis, link] += share
          place[axis] = (place[axis] + direction) % side
      at[axis] = end[axis]
  return max(loads.values())


@pytest.mark.parametrize(
  'n', [8, 64, pytest.param(512, marks=pytest.mark.slow)])
def test_all_to_all_on_a_torus_takes_as_long_as_its_busiest_link(n):
  torus = networks.Torus(dimensions=3, bandwidth=2.0, latency=0.0, flops=1.0)
  size = 1000.0
  seconds = torus.seconds(exchanges.Collective('all-to-all', size), n)
  busiest = route(torus.sides(n)) * size / n
  assert seconds == pytest.approx(busiest / torus.bandwidth)


def test_the_tables_of_the_page_are_those_of_the_model():
  page = pathlib.Path('docs/at_scale.md').read_text(encoding='utf-8')
  for name in networks.NETWORKS:
    assert tables.table(name) in page
