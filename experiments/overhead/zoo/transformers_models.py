"""Models of the package transformers, in Flax, with random small weights."""

import dataclasses
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from experiments.overhead.zoo.table import MODELS, Problem, cross_entropy

WIDTH, LAYERS, HEADS, VOCABULARY, LENGTH, EXAMPLES = 96, 2, 4, 256, 24, 16


@dataclasses.dataclass(frozen=True)
class Made:
  """A model and its parameters."""

  model: object
  params: dict

  def __call__(self, params, **inputs):
    """Apply the model to one example."""
    inputs = {name: x[None] for name, x in inputs.items()}
    names = inspect.signature(type(self.model).__call__).parameters
    mode = {'train': False} if 'train' in names else {'deterministic': True}
    return self.model(**inputs, params=params, **mode)


def clip(x, min=None, max=None, *, a_min=None, a_max=None):
  """Clip an array, by the names of limits that jax has dropped, too."""
  return _CLIP(x, min if a_min is None else a_min,
               max if a_max is None else a_max)


_CLIP = jnp.clip


def make(name: str, config: str, **options) -> Made:
  """Make a model by the names of its class and of its configuration."""
  jnp.clip = clip  # T5 calls it by the names of old
  library = importlib.import_module('transformers')
  model = getattr(library, name)(
    getattr(library, config)(**options), seed=0, _do_init=True)
  return Made(model, model.params)


def tokens(length: int = LENGTH) -> np.ndarray:
  """Draw tokens [examples, length]; 0 and 1 mean padding in some models."""
  return np.random.default_rng(0).integers(
    3, VOCABULARY, (EXAMPLES, length), np.int32)


def language(made: Made) -> Problem:
  """Predict each next token."""
  def loss(params, row):
    return cross_entropy(made(params, input_ids=row[:-1]).logits[0], row[1:])

  return Problem(loss, made.params, tokens())


def masked(made: Made) -> Problem:
  """Predict each token from all."""
  def loss(params, row):
    return cross_entropy(made(params, input_ids=row).logits[0], row)

  return Problem(loss, made.params, tokens())


def translation(made: Made) -> Problem:
  """Predict one sequence from another."""
  def loss(params, row):
    out = made(params, input_ids=row, decoder_input_ids=row[:-1])
    return cross_entropy(out.logits[0], row[1:])

  return Problem(loss, made.params, tokens())


def images(made: Made, size: int) -> Problem:
  """Classify images."""
  rng = np.random.default_rng(0)
  batch = {'x': rng.normal(size=(EXAMPLES, 3, size, size)).astype(np.float32),
           'y': rng.integers(0, 2, EXAMPLES)}

  def loss(params, e):
    return cross_entropy(made(params, pixel_values=e['x']).logits[0], e['y'])

  return Problem(loss, made.params, batch)


@MODELS.model('transformers')
def gpt2():
  return language(make(
    'FlaxGPT2LMHeadModel', 'GPT2Config', n_embd=WIDTH, n_layer=LAYERS,
    n_head=HEADS, vocab_size=VOCABULARY, n_positions=LENGTH))


@MODELS.model('transformers')
def llama():
  # Its rotations are cut off at the number of positions, which must not be
  # smaller than what they are.
  return language(make(
    'FlaxLlamaForCausalLM', 'LlamaConfig', hidden_size=WIDTH,
    intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, num_key_value_heads=HEADS // 2,
    vocab_size=VOCABULARY, max_position_embeddings=2 * WIDTH))


@MODELS.model('transformers')
def bert():
  return masked(make(
    'FlaxBertForMaskedLM', 'BertConfig', hidden_size=WIDTH,
    intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, vocab_size=VOCABULARY,
    max_position_embeddings=LENGTH))


@MODELS.model('transformers')
def t5():
  return translation(make(
    'FlaxT5ForConditionalGeneration', 'T5Config', d_model=WIDTH,
    d_kv=WIDTH // HEADS, d_ff=2 * WIDTH, num_layers=LAYERS, num_heads=HEADS,
    vocab_size=VOCABULARY, feed_forward_proj='gated-gelu',
    tie_word_embeddings=False))


@MODELS.model('transformers')
def vit():
  return images(make(
    'FlaxViTForImageClassification', 'ViTConfig', hidden_size=WIDTH,
    intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, image_size=32, patch_size=8), 32)


@MODELS.model('transformers')
def resnet_with_frozen_norms():
  made = make(
    'FlaxResNetForImageClassification', 'ResNetConfig', embedding_size=16,
    hidden_sizes=[16, 32], depths=[1, 1], layer_type='basic')
  moving, frozen = made.params['params'], made.params['batch_stats']
  problem = images(made, 64)
  return problem._replace(
    params=moving, loss=lambda params, e: problem.loss(
      jax.lax.stop_gradient({'batch_stats': frozen}) | {'params': params}, e))


@MODELS.model('transformers')
def wav2vec2_with_weight_norm():
  made = make(
    'FlaxWav2Vec2ForCTC', 'Wav2Vec2Config', hidden_size=WIDTH,
    intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, vocab_size=VOCABULARY, conv_dim=(32, 32),
    conv_kernel=(5, 3), conv_stride=(4, 2), num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4, feat_extract_norm='layer',
    do_stable_layer_norm=True)
  rng = np.random.default_rng(0)

  def loss(params, x):
    return jnp.mean(jnp.square(made(params, input_values=x).logits))

  return Problem(loss, made.params, rng.normal(
    size=(EXAMPLES, 800)).astype(np.float32))
