"""A layout is checked where it is made, and where it is used."""

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

import gradiv
from gradiv._common import groups, layout as layouts


class LayoutTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(mean_over=3), 'mean_over'),
    (dict(sharded_over=''), 'sharded_over'),
    (dict(groups='layer'), 'groups'),
    (dict(sharded_over='x', is_sharded=True), 'is_sharded'),
    (dict(is_sharded=lambda path: True), 'sharded_over'),
    (dict(mean_over='x', sharded_over=('y', 'x')), 'mean_over'))
  def test_invalid_fields_are_named(self, fields, name):
    with self.assertRaisesRegex(ValueError, name):
      gradiv.Layout(**fields)

  def test_fields_that_a_function_cannot_honor_are_refused(self):
    layout = gradiv.Layout(groups=gradiv.by_layer)
    with self.assertRaisesRegex(ValueError, 'layout.groups'):
      layouts.resolve(layout, 'w', unsupported=('groups',))
    self.assertIs(layouts.resolve(layout, 'w'), layout)
    self.assertEqual(layouts.resolve(None, 'w'), gradiv.Layout())

  @parameterized.parameters(('x',), (('w', 'x'),))
  def test_an_axis_is_named_once(self, axis):
    with self.assertRaisesRegex(ValueError, 'axis_name'):
      layouts.resolve(gradiv.Layout(mean_over='x'), axis)

  def test_anything_but_a_layout_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'layout'):
      layouts.resolve({'groups': gradiv.by_layer}, 'w')

  def test_leaves_are_sharded_as_told(self):
    some = gradiv.Layout(sharded_over='x', is_sharded=lambda path: path == 1)
    self.assertEqual([some.shards(path) for path in (0, 1)], [False, True])
    self.assertTrue(gradiv.Layout(sharded_over='x').shards(0))
    self.assertFalse(gradiv.Layout().shards(0))
    count = jax.vmap(lambda x: x * gradiv.Layout(sharded_over='x').num_shards,
                     axis_name='x')(jnp.ones(3))
    self.assertEqual(count.tolist(), [3, 3, 3])


class GroupsTest(absltest.TestCase):

  def test_values_are_added_up_in_the_order_of_the_names(self):
    tree = {'b': {'w': jnp.float32(1)}, 'a': {'w': jnp.float32(2)},
            'c': {'w': jnp.float32(4), 'bias': jnp.float32(8)}}
    self.assertEqual(groups.group_names(tree, gradiv.by_layer),
                     ('a', 'b', 'c'))
    self.assertEqual(
      groups.add_up(tree, gradiv.by_layer).tolist(), [2, 1, 12])
    self.assertEqual(groups.add_up(tree, None), 15)

  def test_trees_without_leaves(self):
    self.assertEqual(groups.group_names({}, gradiv.by_layer), ())
    self.assertEqual(groups.add_up({}, gradiv.by_layer).shape, (0,))
    self.assertEqual(groups.add_up({}, None), 0)


if __name__ == '__main__':
  absltest.main()
