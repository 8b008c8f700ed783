"""More models of the package transformers, each with an attention of its own.

Learned and linear position biases, rotations, grouped queries, encoders beside
decoders, audio, and relative positions of image patches.
"""

import jax.numpy as jnp
import numpy as np

from experiments.overhead.zoo.table import MODELS, Problem, cross_entropy
from experiments.overhead.zoo.transformers_models import (
  EXAMPLES,
  HEADS,
  LAYERS,
  LENGTH,
  VOCABULARY,
  WIDTH,
  images,
  language,
  make,
  masked,
  translation,
)

# The names that most configurations share.
SIZES = dict(
  hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
  vocab_size=VOCABULARY)
# Those of an encoder with a decoder.
SIZES_OF_BOTH = dict(
  d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
  encoder_attention_heads=HEADS, decoder_attention_heads=HEADS,
  encoder_ffn_dim=2 * WIDTH, decoder_ffn_dim=2 * WIDTH, vocab_size=VOCABULARY,
  pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)


@MODELS.model('transformers')
def opt():
  return language(make(
    'FlaxOPTForCausalLM', 'OPTConfig', **SIZES, ffn_dim=2 * WIDTH,
    max_position_embeddings=LENGTH, word_embed_proj_dim=WIDTH))


@MODELS.model('transformers')
def gpt_neo():
  return language(make(
    'FlaxGPTNeoForCausalLM', 'GPTNeoConfig', hidden_size=WIDTH,
    num_layers=LAYERS, num_heads=HEADS, vocab_size=VOCABULARY,
    attention_types=[[['global', 'local'], 1]], window_size=8,
    max_position_embeddings=LENGTH))


@MODELS.model('transformers')
def bloom():
  return language(make(
    'FlaxBloomForCausalLM', 'BloomConfig', hidden_size=WIDTH, n_layer=LAYERS,
    n_head=HEADS, vocab_size=VOCABULARY))


@MODELS.model('transformers')
def mistral():
  return language(make(
    'FlaxMistralForCausalLM', 'MistralConfig', **SIZES,
    intermediate_size=2 * WIDTH, num_key_value_heads=HEADS // 2,
    max_position_embeddings=2 * WIDTH))


@MODELS.model('transformers')
def roformer():
  return masked(make(
    'FlaxRoFormerForMaskedLM', 'RoFormerConfig', **SIZES,
    intermediate_size=2 * WIDTH, max_position_embeddings=LENGTH))


@MODELS.model('transformers')
def albert_with_shared_layers():
  return masked(make(
    'FlaxAlbertForMaskedLM', 'AlbertConfig', **SIZES,
    embedding_size=WIDTH // 2, intermediate_size=2 * WIDTH,
    max_position_embeddings=LENGTH))


@MODELS.model('transformers')
def bart():
  return translation(make(
    'FlaxBartForConditionalGeneration', 'BartConfig', **SIZES_OF_BOTH,
    max_position_embeddings=LENGTH))


@MODELS.model('transformers')
def whisper():
  made = make(
    'FlaxWhisperForConditionalGeneration', 'WhisperConfig', **SIZES_OF_BOTH,
    num_mel_bins=16, max_source_positions=LENGTH, max_target_positions=LENGTH,
    suppress_tokens=None, begin_suppress_tokens=None)
  rng = np.random.default_rng(0)
  batch = {'x': rng.normal(size=(EXAMPLES, 16, 2 * LENGTH)).astype(np.float32),
           'y': rng.integers(3, VOCABULARY, (EXAMPLES, LENGTH), np.int32)}

  def loss(params, e):
    out = made(params, input_features=e['x'], decoder_input_ids=e['y'][:-1])
    return cross_entropy(out.logits[0], e['y'][1:])

  return Problem(loss, made.params, batch)


@MODELS.model('transformers')
def beit():
  return images(make(
    'FlaxBeitForImageClassification', 'BeitConfig', **SIZES,
    intermediate_size=2 * WIDTH, image_size=32, patch_size=8,
    use_relative_position_bias=True), 32)


@MODELS.model('transformers')
def clip_of_a_pair():
  """The distance of an image from a text."""
  tower = dict(hidden_size=WIDTH, intermediate_size=2 * WIDTH,
               num_hidden_layers=LAYERS, num_attention_heads=HEADS)
  made = make(
    'FlaxCLIPModel', 'CLIPConfig', projection_dim=WIDTH // 2,
    text_config={**tower, 'vocab_size': VOCABULARY, 'eos_token_id': 2,
                 'max_position_embeddings': LENGTH},
    vision_config={**tower, 'image_size': 32, 'patch_size': 8})
  rng = np.random.default_rng(0)
  batch = {'x': rng.normal(size=(EXAMPLES, 3, 32, 32)).astype(np.float32),
           'y': rng.integers(3, VOCABULARY, (EXAMPLES, LENGTH), np.int32)}

  def loss(params, e):
    ones = jnp.ones_like(e['y'])
    out = made(params, input_ids=e['y'], pixel_values=e['x'],
               attention_mask=ones, position_ids=jnp.arange(LENGTH))
    return -jnp.squeeze(out.logits_per_image)

  return Problem(loss, made.params, batch)
