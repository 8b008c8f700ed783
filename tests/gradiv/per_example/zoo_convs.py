"""Convolutions, with norms, pooling and gates."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.gradiv.per_example.case import Table, normed

CASES = Table()


def conv(x, kernel, strides=1, padding='SAME', **options):
  """Convolve one example [space ..., channels] of any rank."""
  letters = 'XYZ'[:x.ndim - 1]
  spec = (f'N{letters}C', f'{letters}IO', f'N{letters}C')
  return lax.conv_general_dilated(
    x[None], kernel, (strides,) * len(letters), padding,
    dimension_numbers=spec, **options)[0]


@CASES.case
def conv_same(draw):
  net = lambda p, x: conv(
    jnp.tanh(conv(x, p['k']) + p['b'][None, None]), p['l'])
  return draw.regression(net, {
    'k': draw(3, 3, 2, 4), 'b': draw(4), 'l': draw(3, 3, 4, 2)}, 6, 4, 2)


@CASES.case
def conv_strided_and_valid(draw):
  net = lambda p, x: conv(
    jnp.tanh(conv(x, p['k'], 2, 'VALID')), p['l'], 2)
  return draw.regression(
    net, {'k': draw(3, 2, 2, 3), 'l': draw(2, 3, 3, 2)}, 9, 7, 2)


@CASES.case
def conv_dilated(draw):
  net = lambda p, x: jnp.tanh(conv(x, p, rhs_dilation=(2, 3)))
  return draw.regression(net, draw(3, 2, 2, 3), 7, 6, 2)


@CASES.case
def conv_grouped(draw):
  net = lambda p, x: jnp.tanh(conv(x, p, feature_group_count=2))
  return draw.regression(net, draw(3, 3, 2, 6), 4, 4, 4)


@CASES.case
def conv_depth_wise(draw):
  net = lambda p, x: conv(
    jnp.tanh(conv(x, p['each'], feature_group_count=3)), p['mix'])
  return draw.regression(
    net, {'each': draw(3, 3, 1, 6), 'mix': draw(1, 1, 6, 2)}, 4, 4, 3)


@CASES.case
def conv_transposed(draw):
  net = lambda p, x: jnp.tanh(lax.conv_transpose(
    x[None], p, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))[0])
  return draw.regression(net, draw(3, 3, 2, 3), 3, 4, 2)


@CASES.case
def conv_transposed_with_gaps_and_groups(draw):
  net = lambda p, x: jnp.tanh(lax.conv_general_dilated(
    x[None], p, (1, 1), ((4, 1), (0, 3)), lhs_dilation=(3, 2),
    rhs_dilation=(2, 1), feature_group_count=2)[0])
  return draw.regression(net, draw(4, 2, 3, 4), 4, 3, 5)


@CASES.case
def conv_to_fewer_features(draw):
  net = lambda p, x: jnp.tanh(conv(
    jnp.tanh(conv(x, p['in'])), p['out'], padding='VALID'))
  return draw.regression(
    net, {'in': draw(3, 2, 2, 6), 'out': draw(2, 3, 6, 2)}, 4, 5, 2)


@CASES.case
def conv_1d_causal(draw):
  net = lambda p, x: jnp.tanh(
    conv(x, p, padding=((4, 0),), rhs_dilation=(2,)))
  return draw.regression(net, draw(3, 2, 3), 8, 2)


@CASES.case
def conv_3d(draw):
  net = lambda p, x: jnp.tanh(conv(x, p['k']) + p['b'][None, None, None])
  return draw.regression(
    net, {'k': draw(2, 3, 2, 2, 3), 'b': draw(3)}, 3, 4, 3, 2)


@CASES.case(falls_back=('add_any',))
def conv_as_patch_embedding(draw):
  net = lambda p, x: jnp.tanh(
    conv(x, p['k'], 2, 'VALID').reshape(-1, 4) + p['place']) @ p['w']
  return draw.regression(net, {
    'k': draw(2, 2, 3, 4), 'place': draw(6, 4), 'w': draw(4, 2)}, 4, 6, 3)


@CASES.case
def conv_channels_first_of_two_frames(draw):
  net = lambda p, x: jnp.tanh(lax.conv(x, p, (1, 1), 'SAME')).mean((0, 2, 3))
  return draw.regression(net, draw(3, 2, 3, 3), 2, 2, 4, 5)


@CASES.case(falls_back=('conv_general_dilated',))
def conv_in_batch_groups(draw):
  net = lambda p, x: jnp.tanh(lax.conv_general_dilated(
    x, p, (1, 1), 'SAME', batch_group_count=2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC')))
  return draw.regression(net, draw(3, 3, 2, 4), 2, 4, 4, 2)


@CASES.case
def group_norm(draw):
  def net(p, x):
    h = conv(x, p['k'])
    h = normed(h.reshape(16, 2, 2), (0, 2)).reshape(4, 4, 4)
    return jnp.tanh(h * p['scale'][None, None] + p['bias'][None, None])

  return draw.regression(net, {
    'k': draw(3, 3, 2, 4), 'scale': 1 + draw(4), 'bias': draw(4)}, 4, 4, 2)


@CASES.case
def pooling_of_both_kinds(draw):
  def net(p, x):
    h = conv(x, p['k'])
    window = ((2, 2, 1), (2, 2, 1), 'VALID')
    most = lax.reduce_window(h, -jnp.inf, lax.max, *window)
    mean = lax.reduce_window(h, 0., lax.add, *window) / 4
    return jnp.concatenate([most, mean]).reshape(-1) @ p['w']

  return draw.regression(
    net, {'k': draw(3, 3, 1, 3), 'w': draw(24, 2)}, 4, 4, 1)


@CASES.case
def squeeze_and_excite(draw):
  def net(p, x):
    h = jnp.tanh(conv(x, p['k']))
    gate = jax.nn.sigmoid(jnp.tanh(h.mean((0, 1)) @ p['down']) @ p['up'])
    return conv(h * gate[None, None], p['l'])

  return draw.regression(net, {
    'k': draw(3, 3, 2, 4), 'down': draw(4, 2), 'up': draw(2, 4),
    'l': draw(1, 1, 4, 2)}, 4, 6, 2)


@CASES.case
def residual_network(draw):
  def net(p, x):
    h = conv(x, p['stem'], 2)
    for block in p['blocks']:
      g = jax.nn.relu(normed(conv(h, block['k']), (0, 1)))
      h = h + conv(g * block['scale'][None, None], block['l'])
    return h.mean((0, 1)) @ p['head']

  block = lambda: {'k': draw(3, 3, 3, 3), 'scale': 1 + draw(3),
                   'l': draw(3, 3, 3, 3)}
  return draw.regression(net, {
    'stem': draw(3, 3, 2, 3), 'blocks': (block(), block()),
    'head': draw(3, 2)}, 6, 6, 2)


@CASES.case
def conv_and_dense_of_one_weight(draw):
  def net(p, x):
    h = jnp.tanh(conv(x, p))
    return h.reshape(-1, 12) @ p.reshape(12, 4)

  return draw.regression(net, draw(3, 2, 2, 4), 3, 6, 2)


@CASES.case
def conv_local(draw):
  net = lambda p, x: jnp.tanh(lax.conv_general_dilated_local(
    x[None], p, (1,), 'VALID', (2,), dimension_numbers=('NWC', 'WIO', 'NWC')
  )[0])
  return draw.regression(net, draw(4, 4, 3), 5, 2)
