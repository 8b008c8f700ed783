"""Embeddings, tied or not, and losses on tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.gradiv.per_example.case import Table, cross_entropy, square

CASES = Table()


@CASES.case(falls_back=('pad',))
def embedding_with_repeated_tokens(draw):
  def loss_fn(p, e):
    h = p['table'][e['tokens']] + p['place'][:6]
    return cross_entropy(jnp.tanh(h.mean(0)) @ p['w'], e['label'])

  return loss_fn, {
    'table': draw(4, 3), 'place': draw(8, 3), 'w': draw(3, 3),
  }, {'tokens': draw.integers(4, 6), 'label': draw.integers(3)}


@CASES.case
def embedding_looked_up_row_by_row(draw):
  """As equinox does it: windows of one row, taken whole along the other axis.
  """
  def loss_fn(p, e):
    return square(jax.vmap(lambda i: p[i])(e['tokens']) - e['y'])

  return loss_fn, draw(7, 3), {
    'tokens': draw.integers(7, 6), 'y': draw.batch(6, 3)}


@CASES.case
def embedding_of_one_token(draw):
  loss_fn = lambda p, e: square(p[e['token']] - e['y'])
  return loss_fn, draw(4, 3), {
    'token': draw.integers(4), 'y': draw.batch(3)}


@CASES.case
def embedding_tied_to_the_logits(draw):
  def loss_fn(p, tokens):
    h = jnp.tanh(jnp.take(p['table'], tokens[:-1], axis=0) @ p['w'])
    return cross_entropy(h @ p['table'].T, tokens[1:])

  return loss_fn, {'table': draw(6, 3), 'w': draw(3, 3)}, draw.integers(6, 8)


@CASES.case
def embedding_that_drops_tokens_out_of_range(draw):
  def loss_fn(p, e):
    h = p.at[e['tokens']].get(mode='drop', fill_value=0)
    return square(jnp.tanh(h) - e['y'])

  return loss_fn, draw(4, 3), {
    'tokens': draw.integers(8, 6, low=-2), 'y': draw.batch(6, 3)}


@CASES.case
def embedding_that_clips_tokens_out_of_range(draw):
  loss_fn = lambda p, e: square(
    jnp.tanh(jnp.take(p, e['tokens'], axis=0, mode='clip')) - e['y'])
  return loss_fn, draw(4, 3), {
    'tokens': draw.integers(8, 6, low=-2), 'y': draw.batch(6, 3)}


@CASES.case
def embedding_by_one_hot(draw):
  loss_fn = lambda p, e: square(
    jnp.tanh(jax.nn.one_hot(e['tokens'], 4) @ p) - e['y'])
  return loss_fn, draw(4, 3), {
    'tokens': draw.integers(4, 6), 'y': draw.batch(6, 3)}


@CASES.case
def embedding_of_words_in_contexts(draw):
  def loss_fn(p, e):
    scores = p[e['others']] @ p[e['word']]
    return jnp.sum(jax.nn.softplus(-e['sign'] * scores))

  return loss_fn, draw(6, 3), {
    'word': draw.integers(6), 'others': draw.integers(6, 4),
    'sign': np.sign(draw.batch(4))}


@CASES.case
def embedding_with_a_penalty(draw):
  def loss_fn(p, e):
    fit = square(jnp.tanh(p[e['tokens']]) - e['y'])
    return fit + 0.1 * jnp.sum(jnp.square(p))

  return loss_fn, draw(6, 3), {
    'tokens': draw.integers(6, 5), 'y': draw.batch(5, 3)}


@CASES.case(falls_back=('reduce_sum',))
def masked_tokens(draw):
  def loss_fn(p, e):
    error = jnp.tanh(e['x'] @ p['w'] + p['b'][None]) - e['y']
    return square(error * e['mask'][:, None]) / jnp.maximum(
      e['mask'].sum(), 1)

  mask = np.float32(draw.batch(6) > 0)
  mask[2] = 0
  return loss_fn, {'w': draw(3, 2), 'b': draw(2)}, {
    'x': draw.batch(6, 3), 'y': draw.batch(6, 2), 'mask': mask}
