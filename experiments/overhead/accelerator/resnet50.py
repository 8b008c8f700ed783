"""ResNet-50 for images of 224 x 224, with normalization by groups.

He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_, 2015.
"""

from flax import nnx

from experiments.models.networks import ConvNorm


class Bottleneck(nnx.Module):
  """relu(shortcut(x) + 1x1, 3x3 and 1x1 convolutions of x)."""

  def __init__(self, before, width, strides, *, rngs):
    after = 4 * width
    self.reduce = ConvNorm(before, width, 1, 1, 32, rngs=rngs)
    self.conv = ConvNorm(width, width, 3, strides, 32, rngs=rngs)
    self.expand = ConvNorm(width, after, 1, 1, 32, rngs=rngs)
    self.projects = before != after
    if self.projects:
      self.shortcut = ConvNorm(before, after, 1, strides, 32, rngs=rngs)

  def __call__(self, x):
    y = self.expand(nnx.relu(self.conv(nnx.relu(self.reduce(x)))))
    return nnx.relu(y + (self.shortcut(x) if self.projects else x))


class Resnet50(nnx.Module):
  """Map images [b, h, w, c] to logits [b, num_classes]."""

  def __init__(self, channels, num_classes, *, rngs):
    self.stem = ConvNorm(channels, 64, 7, 2, 32, rngs=rngs)
    before = 64
    self.blocks = 0
    for stage, depth in enumerate((3, 4, 6, 3)):
      for i in range(depth):
        width = 64 * 2**stage
        strides = 2 if stage and i == 0 else 1
        setattr(self, f'block_{self.blocks}',
                Bottleneck(before, width, strides, rngs=rngs))
        before = 4 * width
        self.blocks += 1
    self.out = nnx.Linear(before, num_classes, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.stem(x))
    x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
    for i in range(self.blocks):
      x = getattr(self, f'block_{i}')(x)
    return self.out(x.mean(axis=(1, 2)))
