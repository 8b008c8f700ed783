"""Parameters used several times, in part, or through a function."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.gradiv.per_example.case import N, Table, square

CASES = Table()


@CASES.case
def siamese_towers(draw):
  def loss_fn(p, e):
    tower = lambda x: jnp.tanh(jnp.tanh(x @ p['w'] + p['b']) @ p['v'])
    return jnp.square(jnp.sum(tower(e['a']) * tower(e['b'])) - e['same'])

  return loss_fn, {'w': draw(4, 3), 'b': draw(3), 'v': draw(3, 2)}, {
    'a': draw.batch(4), 'b': draw.batch(4), 'same': draw.batch()}


@CASES.case
def recurrence_unrolled_by_python(draw):
  def net(p, x):
    h = jnp.zeros(4)
    for t in range(6):
      h = jnp.tanh(x[t] @ p['w'] + h @ p['u'] + p['b'])
    return h

  return draw.regression(
    net, {'w': draw(3, 4), 'u': draw(4, 4), 'b': draw(4)}, 6, 3)


@CASES.case
def weight_and_its_transpose(draw):
  net = lambda p, x: jnp.tanh(x @ p['w'] + p['b'][None]) @ p['w'].T
  return draw.regression(net, {'w': draw(4, 3), 'b': draw(3)}, 6, 4)


@CASES.case
def weight_used_on_vectors_and_sequences(draw):
  def net(p, x):
    return jnp.tanh(x @ p) + (x.mean(0) @ p)[None]

  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def weight_of_a_layer_used_twice(draw):
  net = lambda p, x: jnp.tanh(jnp.tanh(x @ p) @ p)
  return draw.regression(net, draw(3, 3), 3)


@CASES.case
def stacked_weights_by_index(draw):
  def net(p, x):
    for i in range(3):
      x = jnp.tanh(x @ p['w'][i] + p['b'][i][None])
    return x

  return draw.regression(net, {'w': draw(3, 4, 4), 'b': draw(3, 4)}, 6, 4)


@CASES.case(falls_back=('stack',))
def stacked_weights_by_split_and_unstack(draw):
  def net(p, x):
    for w in jnp.unstack(p):
      a, b = jnp.split(w, 2, axis=1)
      x = jnp.tanh(x @ a) * (x @ b)
    return x

  return draw.regression(net, draw(2, 4, 8), 4)


@CASES.case
def weights_in_one_vector(draw):
  def net(p, x):
    w, b, v = jnp.split(p, (12, 16))
    return jnp.tanh(x @ w.reshape(3, 4) + b[None]) @ v.reshape(2, 4).T

  return draw.regression(net, draw(24), 6, 3)


@CASES.case(falls_back=('rev', 'transpose'))
def weight_by_layout_operations(draw):
  def net(p, x):
    w = jnp.concatenate([p['a'].T, jnp.flip(p['b'], 0)], 1)
    w = jnp.pad(w, ((1, 0), (0, 2)))[:, ::2]
    return jnp.tanh(x @ w)

  return draw.regression(net, {'a': draw(2, 3), 'b': draw(3, 4)}, 6, 4)


@CASES.case
def weight_flipped(draw):
  net = lambda p, x: jnp.tanh(x @ jnp.flip(p, 0))
  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def weight_repeated(draw):
  net = lambda p, x: jnp.tanh(x @ jnp.tile(p, (2, 3)))
  return draw.regression(net, draw(2, 2), 6, 4)


@CASES.case
def weight_made_symmetric(draw):
  net = lambda p, x: jnp.tanh(x @ (0.5 * (p + p.T)))
  return draw.regression(net, draw(4, 4), 6, 4)


@CASES.case
def weight_pruned(draw):
  keep = draw(4, 3) > 0
  net = lambda p, x: jnp.tanh(x @ jnp.where(keep, p, 0))
  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def rows_and_columns_in_another_order(draw):
  order = jnp.array([2, 0, 3, 1, 1])
  net = lambda p, x: jnp.tanh(x @ p[order]) @ p[:, order].T
  return draw.regression(net, draw(4, 5), 6, 5)


@CASES.case
def layer_without_features(draw):
  def net(p, x):
    return jnp.tanh(x @ p['w']) @ p['v'] + x @ p['u'] + jnp.sum(p['none'])

  return draw.regression(net, {
    'w': draw(4, 0), 'v': draw(0, 3), 'u': draw(4, 3), 'none': draw(0)}, 6, 4)


@CASES.case
def weight_below_the_diagonal(draw):
  net = lambda p, x: jnp.tanh(x @ jnp.tril(p))
  return draw.regression(net, draw(4, 4), 6, 4)


@CASES.case
def weight_normalized(draw):
  def net(p, x):
    norm = jnp.sqrt(jnp.sum(p['v'] * p['v'], 0, keepdims=True))
    return jnp.tanh(x @ (p['g'][None] * p['v'] / norm))

  return draw.regression(net, {'v': draw(4, 3), 'g': 1 + draw(3)}, 6, 4)


@CASES.case
def weight_standardized(draw):
  def net(p, x):
    p = p - p.mean((0, 1), keepdims=True)
    p = p / jnp.sqrt(jnp.mean(p * p, (0, 1), keepdims=True) + 1e-4)
    return jnp.tanh(lax.conv_general_dilated(
      x[None], p, (1,), 'SAME', dimension_numbers=('NXC', 'XIO', 'NXC'))[0])

  return draw.regression(net, draw(3, 2, 4), 6, 2)


@CASES.case
def weight_by_its_exponential(draw):
  net = lambda p, x: jnp.log(jnp.abs(x) @ jnp.exp(p) + 1)
  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def weight_rounded_straight_through(draw):
  def net(p, x):
    rounded = p + lax.stop_gradient(jnp.round(4 * p) / 4 - p)
    return jnp.tanh(x @ rounded)

  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case(falls_back=('select_n',))
def weight_dropped_for_each_example(draw):
  def loss_fn(p, e):
    keep = jax.random.bernoulli(e['key'], 0.6, p.shape)
    return square(jnp.tanh(e['x'] @ jnp.where(keep, p, 0)) - e['y'])

  return loss_fn, draw(4, 3), {
    'x': draw.batch(6, 4), 'y': draw.batch(6, 3),
    'key': jax.random.split(jax.random.key(1), N)}


@CASES.case
def columns_chosen_by_the_example(draw):
  loss_fn = lambda p, e: square(
    jnp.tanh(e['x'] @ p[:, e['columns']]) - e['y'])
  return loss_fn, draw(4, 6), {
    'x': draw.batch(4), 'columns': draw.integers(6, 3), 'y': draw.batch(3)}


@CASES.case(falls_back=('dynamic_update_slice',))
def rows_from_where_the_example_says(draw):
  def loss_fn(p, e):
    rows = lax.dynamic_slice_in_dim(p, e['start'], 3)
    return square(jnp.tanh(e['x'] @ rows) - e['y'])

  return loss_fn, draw(6, 2), {
    'x': draw.batch(3), 'start': draw.integers(4), 'y': draw.batch(2)}


@CASES.case
def low_rank_beside_a_frozen_weight(draw):
  def net(p, x):
    frozen = lax.stop_gradient(p['w'])
    return jnp.tanh(x @ frozen + (x @ p['a']) @ p['b'] * 2)

  return draw.regression(
    net, {'w': draw(4, 3), 'a': draw(4, 2), 'b': draw(2, 3)}, 6, 4)


@CASES.case
def low_rank_merged_into_a_frozen_weight(draw):
  def net(p, x):
    return jnp.tanh(x @ (lax.stop_gradient(p['w']) + p['a'] @ p['b']))

  return draw.regression(
    net, {'w': draw(4, 3), 'a': draw(4, 2), 'b': draw(2, 3)}, 6, 4)


@CASES.case
def sum_of_two_parameters(draw):
  net = lambda p, x: jnp.tanh(x @ (p['shared'] + 0.5 * p['own'])) @ p['own']
  return draw.regression(net, {'shared': draw(3, 3), 'own': draw(3, 3)}, 6, 3)


@CASES.case
def weight_in_two_precisions(draw):
  """The float32 use is not rounded along with the bfloat16 use."""
  def net(p, x):
    low = (1e-5 * x).astype(jnp.bfloat16) @ p.astype(jnp.bfloat16)
    return jnp.tanh(x @ p) + low.astype(jnp.float32)

  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def weight_with_axes_of_one(draw):
  def net(p, x):
    h = jnp.einsum('ti,aij->atj', x, p[None])
    return jnp.tanh(h[0]) + jnp.einsum('ti,iaj->taj', x, p[:, None])[:, 0]

  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def difference_of_two_parameters(draw):
  net = lambda p, x: jnp.tanh(x @ (p['a'] - p['b'])) @ p['b']
  return draw.regression(net, {'a': draw(3, 3), 'b': draw(3, 3)}, 6, 3)


@CASES.case(falls_back=('mul',))
def fourier_transform_of_a_parameter(draw):
  def net(p, x):
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(p), n=6)

  return draw.regression(net, draw(6), 6)


@CASES.case
def fourier_transform_of_activations(draw):
  net = lambda p, x: jnp.abs(jnp.fft.rfft(x @ p['w']) + 1.5) @ p['v']
  return draw.regression(net, {'w': draw(3, 6), 'v': draw(4, 2)}, 3)


@CASES.case
def orthogonalized_weight(draw):
  """Its gradient comes from one product along a thousand paths."""
  def net(p, x):
    w = p / jnp.linalg.norm(p)
    for _ in range(3):
      square = w @ w.T
      w = 3 * w + (-3.2 * square + 1.2 * square @ square) @ w
    return x @ w

  return draw.regression(net, draw(4, 4), 6, 4)


@CASES.case
def spectral_layer(draw):
  def net(p, x):
    modes = jnp.fft.rfft(x, axis=0)
    mixed = jnp.einsum('mi,imo->mo', modes, p['re'] + 1j * p['im'])
    return jnp.fft.irfft(mixed, n=6, axis=0)

  return draw.regression(net, {'re': draw(3, 4, 2), 'im': draw(3, 4, 2)}, 6, 3)


@CASES.case
def complex_phases(draw):
  net = lambda p, x: jnp.exp(1j * (x @ p['w'])) @ (
    p['re'] + 1j * p['im'].astype(jnp.complex64))
  return draw.regression(
    net, {'w': draw(3, 4), 're': draw(4, 2), 'im': draw(4, 2)}, 6, 3)


@CASES.case
def linear_solve(draw):
  net = lambda p, x: jnp.linalg.solve(3 * jnp.eye(4) + p, x)
  return draw.regression(net, draw(4, 4), 4)


@CASES.case
def log_determinant(draw):
  def loss_fn(p, x):
    precision = p @ p.T + jnp.eye(3)
    return x @ precision @ x - jnp.linalg.slogdet(precision)[1]

  return loss_fn, draw(3, 3), draw.batch(3)


@CASES.case
def gradient_penalty(draw):
  def loss_fn(p, x):
    energy = lambda x: jnp.sum(jnp.tanh(x @ p['w'] + p['b']) @ p['v'])
    slope = jax.grad(energy)(x)
    return energy(x) + jnp.square(jnp.sqrt(jnp.sum(slope * slope)) - 1)

  return loss_fn, {'w': draw(3, 4), 'b': draw(4), 'v': draw(4, 2)}, (
    draw.batch(3))
