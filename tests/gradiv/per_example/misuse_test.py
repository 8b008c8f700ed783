"""Wrong use is refused by name, and never gives a number."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen, nnx

import gradiv
from gradiv import per_example

W = np.ones((3, 2), np.float32)
X = np.arange(12, dtype=np.float32).reshape(4, 3)
MAKERS = (per_example.example_moments, per_example.example_sq_norms,
          per_example.example_gram)
IN_MICROBATCHES = (per_example.example_moments, per_example.example_sq_norms,
                   per_example.as_value_and_grad)


def square(w, x):
  return jnp.sum(jnp.square(x @ w))


def named(**cases):
  return parameterized.named_parameters(
    (name, *case) for name, case in cases.items())


@jax.custom_jvp
def summed_over_workers(x):
  return jax.lax.psum(x, 'workers')


@summed_over_workers.defjvp
def _(primals, tangents):
  return summed_over_workers(*primals), tangents[0]


def in_a_loop(x):
  return jax.lax.while_loop(
    lambda x: x[0] < 5, lambda x: jax.lax.psum(x, 'workers') + 9, x)


def normalized_by_linen():
  class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
      return linen.BatchNorm(use_running_average=False)(linen.Dense(2)(x))

  variables = Net().init(jax.random.key(0), X)
  params, stats = variables['params'], variables['batch_stats']
  return lambda params, x: jnp.mean(jnp.square(Net().apply(
    {'params': params, 'batch_stats': stats}, x, mutable=['batch_stats'],
  )[0])), params


def normalized_by_nnx():
  net = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)),
                       nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
  graph, state = nnx.split(net)
  return lambda state, x: jnp.mean(jnp.square(
    nnx.merge(graph, state)(x))), state


def contrastive():
  def loss_fn(w, x):
    z = x @ w
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(z @ z.T)))
  return loss_fn, W


def added_up():
  return lambda w, x: jnp.sum(jnp.square(x @ w)), W


def one_key():
  def loss_fn(w, x):
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, (len(x), 2))
    return jnp.mean(jnp.where(kept, x @ w, 0))
  return loss_fn, W


class MisuseTest(parameterized.TestCase):

  @named(
    vector=(lambda w, x: (x @ w), r'float32\[2\]'),
    kept_axis=(lambda w, x: square(w, x)[None], r'float32\[1\]'),
    complex_=(lambda w, x: 1j * square(w, x), r'complex64\[\]'),
    whole=(lambda w, x: jnp.int32(3), r'int32\[\]'),
    nothing=(lambda w, x: None, 'NoneType'),
    pair=(lambda w, x: (square(w, x), x), 'tuple.*has_aux=True'),
    dict_=(lambda w, x: {'loss': square(w, x)}, 'dict'))
  def test_a_loss_is_one_real_number(self, loss_fn, message):
    for make in MAKERS:
      with self.assertRaisesRegex(ValueError, 'loss_fn .*' + message):
        make(loss_fn)(W, X)

  @named(number=(lambda w, x: square(w, x),),
         triple=(lambda w, x: (square(w, x), x, x),),
         list_=(lambda w, x: [square(w, x), x],))
  def test_aux_comes_in_a_pair(self, loss_fn):
    for make in MAKERS:
      with self.assertRaisesRegex(ValueError, 'has_aux=True'):
        make(loss_fn, has_aux=True)(W, X)

  @named(sizes=((X, X[:3]), r'\(4, 3\).*\(3, 3\)'),
         number=((X, 1.), r'\(4, 3\).*\(\)'),
         no_example=((X[:0], X[:0]), r'\(0, 3\)'),
         no_leaf=((), 'shapes {}'))
  def test_a_batch_has_examples_in_front(self, batch, shapes):
    loss_fn = lambda w, e: square(w, e[0])
    for make in (*MAKERS, per_example.as_value_and_grad):
      with self.assertRaisesRegex(ValueError, 'batch .*' + shapes):
        make(loss_fn)(W, batch)

  @parameterized.parameters(0, 2.5, -1, True)
  def test_a_microbatch_size_is_a_count(self, size):
    for make in IN_MICROBATCHES:
      with self.assertRaisesRegex(ValueError, f'microbatch_size={size!r}'):
        make(square, microbatch_size=size)

  def test_a_microbatch_size_divides_the_batch(self):
    for make in IN_MICROBATCHES[:2]:
      with self.assertRaisesRegex(ValueError, 'microbatch_size=3.* 4'):
        make(square, microbatch_size=3)(W, X)

  @named(axis_name=({'axis_name': 3},), groups=({'groups': 'layer'},))
  def test_options_are_checked_at_once(self, option):
    for make in (*MAKERS, per_example.as_value_and_grad):
      with self.assertRaisesRegex(ValueError, '{}={!r}'.format(
          *next(iter(option.items())))):
        make(square, **option)

  def test_options_are_spelled_out(self):
    for make in (*MAKERS, per_example.as_value_and_grad):
      with self.assertRaises(TypeError):
        make(square, microbatch=2)

  @named(short=(np.ones(3, bool), r'\(3,\)'), flat=(True, r'\(\)'),
         floats=(np.ones(4, np.float32), 'float32'))
  def test_a_mask_is_a_bool_per_example(self, mask, message):
    for make in MAKERS:
      with self.assertRaisesRegex(ValueError, 'mask .*' + message):
        make(square)(W, X, mask=mask)

  @named(short=(np.ones(3), r'\(3,\)'), column=(np.ones((4, 1)), r'\(4, 1\)'),
         complex_=(np.ones(4, np.complex64), 'complex64'),
         dict_=({'a': np.ones(4)}, 'a'))
  def test_weights_are_a_real_number_per_example(self, weights, message):
    for make in MAKERS[1:]:
      _, _, combine = make(square)(W, X)
      with self.assertRaisesRegex(ValueError, r'(?s)weights.*' + message):
        combine(weights)

  @named(flat=(np.ones(4),), turned=(np.ones((4, 2)),),
         more=(np.ones((3, 4)),))
  def test_weights_have_a_row_per_group(self, weights):
    params = {'a': {'w': W}, 'b': {'w': W}}
    for make in MAKERS[1:]:
      _, _, combine = make(
        lambda p, x: square(p['a']['w'] + p['b']['w'], x),
        groups=gradiv.by_layer)(params, X)
      with self.assertRaisesRegex(ValueError, r'weights .*\(2, 4\)'):
        combine(weights)

  def test_a_symbolic_number_of_examples(self):
    n, = jax.export.symbolic_shape('n')
    batch = jax.ShapeDtypeStruct((n, 3), jnp.float32)
    for make in MAKERS:
      with self.assertRaisesRegex(ValueError, 'batch .*not symbols'):
        jax.export.export(jax.jit(lambda w, x, make=make: make(square)(
          w, x)[1]))(jax.ShapeDtypeStruct((3, 2), jnp.float32), batch)

  def test_a_collective_over_an_axis_that_is_not_there(self):
    for make in MAKERS:
      with self.assertRaisesRegex(
          ValueError, 'mixes examples by a collective .*axis name: batch'):
        make(lambda w, x: square(w, jax.lax.pmean(x, 'batch')))(W, X)

  @named(plain=(lambda x: jax.lax.pmean(x, 'workers'), 'vmap', None),
         named=(lambda x: jax.lax.pmean(x, 'workers'), 'vmap', 'workers'),
         shards=(summed_over_workers, 'shard_map', 'workers'),
         pmap=(summed_over_workers, 'pmap', None),
         loop=(in_a_loop, 'vmap', 'workers'),
         checkpoint=(jax.checkpoint(summed_over_workers), 'vmap', None),
         jit=(jax.jit(summed_over_workers), 'shard_map', 'workers'))
  def test_a_collective_over_the_workers(self, hidden, backend, axis_name):
    # It acts on the data alone, and is in no gradient.
    loss_fn = lambda w, x: square(w, jax.lax.stop_gradient(hidden(x)))
    moments = per_example.example_moments(loss_fn, axis_name=axis_name)
    mapped = gradiv.map_workers(
      moments, 'workers', in_axes=(None, 0), backend=backend)
    with self.assertRaisesRegex(
        ValueError, r"loss_fn mixes examples .*psum.* over .*'workers'"):
      mapped(W, X.reshape(2, 2, 3))

  @named(linen=(normalized_by_linen, 'adds over the examples'),
         nnx=(normalized_by_nnx, 'adds over the examples'),
         contrastive=(contrastive, 'depends on its place in the batch'),
         added_up=(added_up, 'not divided by their number'),
         one_key=(one_key, 'draws for all examples from one key'))
  def test_a_loss_over_a_batch_that_is_no_mean_of_examples(self, make, message):
    loss_fn, params = make()
    with self.assertRaisesRegex(ValueError, 'loss_fn .*' + message):
      per_example.as_value_and_grad(loss_fn)(params, X)


if __name__ == '__main__':
  absltest.main()
