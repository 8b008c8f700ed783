"""What happens to a batch of images on its way into a step, in JAX.

Pure functions of a key, to be called inside the jitted step: the accelerator
does the work, and the host ships uint8.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import streams

PADDINGS = ('zero', 'reflect')


def augment_cifar(
    key: jax.Array,
    images: jax.Array,
    *,
    padding: str = 'zero',
    pad: int = 4,
) -> jax.Array:
  """Crop each image at random out of its padded self, and mirror half of them.

  The standard augmentation of CIFAR (*He et al., `Deep Residual Learning
  <https://arxiv.org/abs/1512.03385>`_, 2015*, section 4.2): `pad` pixels on
  each side, a crop of the original size, a flip with probability 1/2, all drawn
  anew for each image. Shape and dtype stay. 'zero' pads with the value 0, so
  whether the border is black or the mean depends on what comes first, this or
  `standardize`.

  Args:
    images: [n, h, w, c], of any dtype.
    padding: 'zero' or 'reflect'.
  """
  if getattr(images, 'ndim', None) != 4:
    raise ValueError('images must be [n, h, w, c], got '
                     f'{getattr(images, "shape", type(images).__name__)}')
  if padding not in PADDINGS:
    raise ValueError(f'padding must be one of {PADDINGS}, got {padding!r}')
  number, height, width, channels = images.shape
  pad = streams.check_integer('pad', pad, 0, min(height, width) - 1)
  mode = {'zero': 'constant', 'reflect': 'reflect'}[padding]
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
  crop_key, flip_key = jax.random.split(key)
  corners = jax.random.randint(crop_key, (number, 2), 0, 2 * pad + 1)
  flips = jax.random.bernoulli(flip_key, 0.5, (number,))

  def crop(image, corner):
    start = (corner[0], corner[1], 0)
    return jax.lax.dynamic_slice(image, start, (height, width, channels))

  crops = jax.vmap(crop)(padded, corners)
  return jnp.where(flips[:, None, None, None], crops[:, :, ::-1], crops)


def standardize(images: jax.Array, mean, std) -> jax.Array:
  """Return (images - mean) / std as float32.

  Mean and std are in the units of the images, as `channel_statistics` gives
  them: 0 to 255 for uint8, never silently rescaled to [0, 1].

  Args:
    images: [..., c], of any dtype.
    mean: a number, or [c].
    std: a number, or [c]; positive.
  """
  images = jnp.asarray(images)
  channels = images.shape[-1:]
  for name, value in (('mean', mean), ('std', std)):
    if jnp.shape(value) not in ((), (1,), channels):
      raise ValueError(f'{name} must be a number or {list(channels)}, got '
                       f'{list(jnp.shape(value))}')
  # Under a trace std may have no value yet; where it has one, say so at once.
  if not isinstance(std, jax.core.Tracer) and not np.all(np.asarray(std) > 0):
    raise ValueError(f'std must be positive, got {std!r}')
  spread = lambda value: jnp.broadcast_to(
      jnp.asarray(value, jnp.float32).reshape(-1), channels
  ).reshape((1,) * (images.ndim - 1) + channels)
  return (images.astype(jnp.float32) - spread(mean)) / spread(std)
