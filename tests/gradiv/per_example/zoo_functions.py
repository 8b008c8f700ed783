"""Functions with custom derivatives, while loops, and jit."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tests.gradiv.per_example.case import Table, square

CASES = Table()


@jax.custom_vjp
def clipped_dense(x, w):
  """A dense layer that clips its cotangents."""
  return x @ w


def _clipped_backward(residuals, d):
  x, w = residuals
  d = jnp.clip(d, -0.5, 0.5)
  return d @ w.T, x.T @ d


clipped_dense.defvjp(
  lambda x, w: (clipped_dense(x, w), (x, w)), _clipped_backward)


@CASES.case
def custom_vjp_of_a_layer(draw):
  net = lambda p, x: clipped_dense(
    jnp.tanh(clipped_dense(x, p['w'])), p['v'])
  return draw.regression(net, {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def reversed_in(scale, x):
  return x


reversed_in.defvjp(
  lambda scale, x: (x, None), lambda scale, _, d: (-scale * d,))


@CASES.case
def custom_vjp_of_an_activation(draw):
  net = lambda p, x: jnp.tanh(reversed_in(0.3, x @ p['w'])) @ p['v']
  return draw.regression(net, {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)


@jax.custom_jvp
def soft(x):
  return jnp.log1p(jnp.exp(x))


soft.defjvp(lambda x, t: (soft(x[0]), jax.nn.sigmoid(x[0]) * t[0]))


@CASES.case
def custom_jvp_of_an_activation(draw):
  net = lambda p, x: soft(x @ p['w'] + p['b'][None]) @ p['v']
  return draw.regression(
    net, {'w': draw(3, 4), 'b': draw(4), 'v': draw(4, 2)}, 6, 3)


def _iterate(step, start):
  """Repeat until nothing moves any more."""
  def moves(carry):
    count, last, new = carry
    return (count < 60) & (jnp.max(jnp.abs(new - last)) > 1e-7)

  advance = lambda carry: (carry[0] + 1, carry[2], step(carry[2]))
  return lax.while_loop(moves, advance, (0, start, step(start)))[2]


def _cell(p, x, z):
  return jnp.tanh(0.5 * z @ p['w'] + x @ p['u'])


@jax.custom_vjp
def equilibrium(p, x):
  """Solve z = tanh(z W/2 + x U), differentiated implicitly."""
  return _iterate(lambda z: _cell(p, x, z), jnp.zeros(p['w'].shape[0]))


def _forward(p, x):
  z = equilibrium(p, x)
  return z, (p, x, z)


def _backward(residuals, d):
  p, x, z = residuals
  _, back = jax.vjp(lambda z: _cell(p, x, z), z)
  u = _iterate(lambda u: d + back(u)[0], d)
  return jax.vjp(lambda p, x: _cell(p, x, z), p, x)[1](u)


equilibrium.defvjp(_forward, _backward)


@CASES.case
def implicit_fixed_point(draw):
  net = lambda p, x: equilibrium(p['cell'], x) @ p['v']
  return draw.regression(net, {
    'cell': {'w': draw(4, 4), 'u': draw(3, 4)}, 'v': draw(4, 2)}, 3)


@CASES.case
def while_loop_without_gradient(draw):
  def net(p, x):
    w = lax.stop_gradient(p['w'])
    start = _iterate(lambda h: 0.5 * jnp.tanh(h @ w + x), lax.stop_gradient(x))
    return jnp.tanh(lax.stop_gradient(start) @ p['w']) @ p['v']

  return draw.regression(net, {'w': draw(3, 3), 'v': draw(3, 2)}, 3)


@CASES.case
def spectral_norm_by_power_iteration(draw):
  def net(p, x):
    w = lax.stop_gradient(p)

    def step(v):
      v = w.T @ (w @ v)
      return v / jnp.linalg.norm(v)

    v = lax.fori_loop(0, 20, lambda _, v: step(v), jnp.ones(3))
    u = w @ v
    return jnp.tanh(x @ (p / (u @ p @ v / jnp.linalg.norm(u))))

  return draw.regression(net, draw(4, 3), 6, 4)


def _flow(w, z):
  return jnp.tanh(z @ w)


@jax.custom_vjp
def integrated(w, z):
  """Integrate dz/dt = tanh(z W) over a unit of time."""
  return lax.fori_loop(0, 8, lambda _, z: z + _flow(w, z) / 8, z)


def _adjoint(residuals, d):
  w, z = residuals

  def moves(carry):
    return carry[0] > 0

  def step(carry):
    time, z, d, total = carry
    dw, dz = jax.vjp(_flow, w, z)[1](d)
    return time - 1 / 8, z - _flow(w, z) / 8, d + dz / 8, total + dw / 8

  _, _, d, total = lax.while_loop(
    moves, step, (jnp.float32(1), z, d, jnp.zeros_like(w)))
  return total, d


def _follow(w, z):
  end = integrated(w, z)
  return end, (w, end)


integrated.defvjp(_follow, _adjoint)


@CASES.case(falls_back=('while',))
def adjoint_of_a_differential_equation(draw):
  net = lambda p, x: integrated(p['w'], x) @ p['v']
  return draw.regression(net, {'w': draw(3, 3), 'v': draw(3, 2)}, 3)


@jax.custom_vjp
def dense_and_lookup(w, x, columns):
  """A product and a corner of the weight, with one cotangent for both."""
  return x @ w, w[:2, columns]


def _into_one(residuals, d):
  w, x, columns = residuals
  return (x.T @ d[0]).at[:2, columns].add(d[1]), d[0] @ w.T, None


dense_and_lookup.defvjp(
  lambda *args: (dense_and_lookup(*args), args), _into_one)


@CASES.case(falls_back=('scatter-add',))
def custom_vjp_that_adds_into_a_product(draw):
  def loss_fn(p, e):
    h, corner = dense_and_lookup(p, e['x'], e['columns'])
    return square(jnp.tanh(h)) + square(corner - e['y'])

  return loss_fn, draw(4, 5), {
    'x': draw.batch(3, 4), 'columns': draw.integers(5, 3),
    'y': draw.batch(2, 3)}


@jax.custom_vjp
def three_factors(w, x, y, z):
  return jnp.sum(w) * x[0] * y[0] * z[0]


def _reversed_axes(residuals, d):
  w, x, y, z = residuals
  one = x[:, None, None] * (d * y)[None, None, :]
  other = z[:, None, None] * (d * y)[None, :, None]
  # In one product an axis of size one is reversed, in the other that of y.
  return (jnp.flip(one, 1).reshape(w.shape) + jnp.flip(other, 1).reshape(
    w.shape), x, y, z)


three_factors.defvjp(
  lambda *args: (three_factors(*args), args), _reversed_axes)


@CASES.case
def custom_vjp_that_reverses_axes(draw):
  loss_fn = lambda p, e: jnp.sin(three_factors(p, *e))
  return loss_fn, draw(3, 4), (draw.batch(3), draw.batch(4), draw.batch(3))


@CASES.case
def jit_in_jit_in_remat_in_jit(draw):
  layer = jax.jit(lambda w, x: jnp.tanh(x @ w))
  pair = jax.jit(lambda p, x: layer(p['v'], layer(p['w'], x)))
  loss_fn, params, batch = draw.regression(
    jax.checkpoint(lambda p, x: pair(p, x) + pair(p, 2 * x)),
    {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)
  return jax.jit(loss_fn), params, batch


@CASES.case
def values_shared_by_two_losses(draw):
  def loss_fn(p, e):
    h = jax.nn.relu(e['x'] @ p['w'])
    mean, log_var = h @ p['mean'], h @ p['log_var']
    error = (e['y'] - mean) * jnp.exp(-0.5 * log_var)
    return square(error) + 0.5 * jnp.sum(log_var) + square(h @ h.T)

  return loss_fn, {
    'w': draw(3, 4), 'mean': draw(4, 2), 'log_var': draw(4, 2)}, {
      'x': draw.batch(6, 3), 'y': draw.batch(6, 2)}


@CASES.case
def sorted_and_cumulated(draw):
  net = lambda p, x: jnp.cumsum(jnp.sort(x @ p['w'], 0), 0) @ p['v']
  return draw.regression(net, {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)
