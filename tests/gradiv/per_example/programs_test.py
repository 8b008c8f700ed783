"""Per-example statistics of random programs."""

import hypothesis
import pytest
from absl.testing import absltest
from hypothesis import strategies as st

from tests.gradiv.per_example import programs as lib, reference
from tests.gradiv.per_example.programs import Layer

WRAPPERS = ('residual', 'remat', 'jitted', 'either')
# The shapes of the parameters behind a weight [d, o].
LAYOUTS = {
  'transposed': lambda d, o: ((o, d),),
  'flat': lambda d, o: ((d * o,),),
  'sliced': lambda d, o: ((d + 1, 2 * o),),
  'padded': lambda d, o: ((d, o),),
  'joined': lambda d, o: ((d, o), (d, 1)),
  'reversed': lambda d, o: ((d, o),),
  'nonlinear': lambda d, o: ((d, o),),
  'shifted': lambda d, o: ((d, d), (1,)),
}


def shape_kept(name, t, d, pick):
  """Draw a layer that keeps the shape of the activations."""
  if name == 'scale':
    return Layer(name, ((d,),))
  if name == 'bias':
    return Layer(name, (pick(st.sampled_from(((1, d), (t, d), (t, 1)))),))
  if name == 'norm':
    return Layer(name, ((d,), (d,)))
  if name == 'embedding':
    return Layer(name, ((lib.VOCABULARY, d),))
  if name == 'stacked':
    return Layer(name, ((pick(st.integers(1, 3)), d, d),))
  name = pick(st.sampled_from(sorted(lib.ACTIVATIONS)))
  return Layer('activation', (), (name,))


def plain(name, t, d, pick):
  """Draw a layer that wraps none; also return its output shape."""
  o = pick(st.integers(1, 4))
  if name in ('dense', 'dense_of_a_sum'):
    return Layer(name, ((d, o),)), (t, o)
  if name == 'heads':
    h, k = pick(st.integers(1, 2)), pick(st.integers(1, 3))
    return Layer(name, ((d, h, k),) * 3 + ((h, k, o),)), (t, o)
  if name == 'conv':
    groups = pick(st.sampled_from([g for g in (1, 2, 3) if d % g == 0]))
    width, dilation = pick(st.integers(1, 3)), pick(st.integers(1, 2))
    stride = pick(st.integers(1, 2))
    reach = (width - 1) * dilation + 1
    padding = pick(st.sampled_from(
      ('SAME', 'VALID') if reach <= t else ('SAME',)))
    after = -(-t // stride) if padding == 'SAME' else (t - reach) // stride + 1
    return Layer(name, ((width, d // groups, groups * o),),
                 (stride, dilation, padding, groups)), (after, groups * o)
  if name == 'recurrence':
    return Layer(name, ((d, o), (o, o), (o,)), (pick(st.booleans()),)), (t, o)
  if name == 'laid_out':
    how = pick(st.sampled_from(sorted(LAYOUTS)))
    return Layer(name, LAYOUTS[how](d, o), (how,)), (
      t, d if how == 'shifted' else o + (how in ('padded', 'joined')))
  if name == 'split':
    return Layer(name, ((d, 2 * o),)), (t, o)
  if name == 'chosen':
    return Layer(name, ((2, d, o),)), (t, o)
  if name == 'pooled' and t > 1:
    return Layer(name, (), (pick(st.sampled_from(('max', 'mean'))),)), (
      t // 2, d)
  return shape_kept(name, t, d, pick), (t, d)


@st.composite
def layers(pick, t, d, depth=0):
  """Draw a layer that takes [t, d]; also return its output shape."""
  name = pick(st.sampled_from(sorted(lib.OPS)))
  if name not in WRAPPERS:
    return plain(name, t, d, pick)
  if depth == 2:
    return plain('dense', t, d, pick)
  inner, out = pick(layers(t, d, depth + 1))
  if name == 'residual' and out != (t, d):
    name = 'remat'
  return Layer(name, inner.shapes, (), inner), out


@st.composite
def programs(pick):
  """Draw a program of up to four layers and a dense one."""
  sizes = st.integers(1, 4)
  shape = now = (pick(sizes), pick(sizes))
  found, ins = [], []
  for _ in range(pick(sizes)):
    again = [Layer('again', (), (k,)) for k, (layer, at) in enumerate(
      zip(found, ins)) if at == now and layer.shapes]
    back = [Layer('back', (), (k,)) for k, layer in enumerate(found)
            if layer.name == 'dense' and layer.shapes[0][1] == now[1]]
    ins.append(now)
    if (again or back) and pick(st.booleans()):
      layer = pick(st.sampled_from(again + back))
      earlier = layer.options[0]
      now = (ins[earlier + 1] if layer.name == 'again'
             else (now[0], found[earlier].shapes[0][0]))
    else:
      layer, now = pick(layers(*now))
    found.append(layer)
  found.append(Layer('dense', ((now[1], pick(sizes)),)))
  return lib.Program(shape, tuple(found), pick(st.integers(0, 99)), pick(sizes))


def some(num_programs):
  """Run a test on some programs, the same ones each time (a second each)."""
  return lambda test: hypothesis.settings(
    max_examples=num_programs, deadline=None, derandomize=True, database=None,
  )(hypothesis.given(program=programs())(test))


class ProgramsTest(absltest.TestCase):

  @some(12)
  @pytest.mark.slow
  def test_equals_the_gradient_of_each_example(self, program):
    reference.check(*lib.build(program))

  @pytest.mark.slow
  @some(400)
  def test_many_equal_the_gradient_of_each_example(self, program):
    reference.check(*lib.build(program), gram_room=reference.little_room)

  def test_all_layers_are_drawn(self):
    names = set()

    @some(300)
    def look(program):
      for layer in program.layers:
        while layer is not None:
          names.add(layer.name)
          layer = layer.inner

    look()
    self.assertEqual(names, {*lib.OPS, 'again', 'back'})


if __name__ == '__main__':
  absltest.main()
