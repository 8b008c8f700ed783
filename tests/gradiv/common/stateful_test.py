"""A state of something else is refused, and the error says what it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv._common import stateful

PARAMS = {'w': jnp.ones((2, 3)), 'b': jnp.ones(3), 'none': None}


class KeptState(NamedTuple):
  kept: Any
  more: Any


def transformation(more=lambda params: ()):
  """Make one that adds what it has kept."""
  return stateful.transformation(
    lambda params: KeptState(params, more(params)),
    lambda updates, state, params=None, **extra: (
      jax.tree.map(jnp.add, updates, state.kept), state),
    KeptState, like_params=('kept', 'more'))


class StatesTest(parameterized.TestCase):

  def test_its_own_state_is_taken(self):
    for more in (lambda params: (), lambda params: params):
      tx = transformation(more)
      updates, _ = tx.update(PARAMS, tx.init(PARAMS), unknown=1)
      self.assertEqual(updates['b'].tolist(), [2, 2, 2])

  def test_a_state_of_another_class_is_named(self):
    with self.assertRaisesRegex(
        ValueError, 'state of type EmptyState.*KeptState'):
      transformation().update(PARAMS, optax.EmptyState())

  @parameterized.parameters(
    ({'w': jnp.ones((2, 3))}, r'state\.kept with structure'),
    ({}, r'state\.kept with structure'),
    (jnp.ones(3), r'state\.kept with structure'),
    (PARAMS | {'b': jnp.ones(2)},
     r"state\.kept\['b'\] of shape \(2,\): must be \(3,\)"),
    (PARAMS | {'b': jnp.ones(())}, r"state\.kept\['b'\] of shape \(\)"),
    (PARAMS | {'b': {'c': jnp.ones(3)}}, r"state\.kept\['b'\] of shape None"))
  def test_a_state_of_other_parameters_is_named(self, other, message):
    tx = transformation()
    with self.assertRaisesRegex(ValueError, f'{message}.*init'):
      tx.update(PARAMS, tx.init(other))

  def test_chains_in_another_order(self):
    track = gradiv.track_moments('workers', batch_size=1)
    mean = gradiv.aggregate_by_mean('workers')
    state = optax.chain(mean, track).init(PARAMS)
    with self.assertRaisesRegex(
        ValueError, 'AggregateByMeanState: must be of type TrackMomentsState'):
      optax.chain(track, mean).update(PARAMS, state)

  def test_a_tracker_with_groups_and_one_without(self):
    plain = gradiv.track_moments()
    by_layer = gradiv.track_moments(groups=gradiv.by_layer)
    for tx, other in ((plain, by_layer), (by_layer, plain)):
      with self.assertRaisesRegex(ValueError, 'groups='):
        tx.update(PARAMS, other.init(PARAMS),
                  moments=gradiv.Moments(*jnp.ones((4, 2))))


if __name__ == '__main__':
  absltest.main()
