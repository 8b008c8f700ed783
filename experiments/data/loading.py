"""One `load` for every data set: images or text, in memory or streamed."""

import json
import os
import pathlib

from experiments.data import (
  examples as examples_lib,
  folders,
  preparing,
  readers,
  sources,
  streams,
  text,
  tfrecord,
)


def load(
    name: str,
    split: str,
    *,
    data_dir: os.PathLike | str | None = None,
    download: bool = True,
    max_bytes_in_memory: int = 2 ** 31,
    image_size: int | None = None,
    label_key: str = 'label',
) -> examples_lib.Examples:
  """Open a split of a data set, and prepare the set where that is needed.

  Any set of TFDS with one image and a class label will do, and two that are
  embedded: `digits`, and `pydoc_topics` for characters (in windows of 64;
  'pydoc_topics/length128' for others). Copies in array_record and in TFRecord
  are read, without TensorFlow. What is not there is prepared, once.

  Args:
    name: 'name', 'name/config' or 'name:1.2.3'.
    split: as TFDS writes it: 'train', 'train[:90%]', 'train[100:]+test'.
    data_dir: else TFDS_DATA_DIR, else ~/tensorflow_datasets.
    download: False: never touch the network. The embedded sets need none.
    max_bytes_in_memory: a split that decodes to more is streamed.
    image_size: scale the shorter side to this (bilinear) and crop the center;
      needed where images differ in size.
    label_key: which class label, where there are several.

  Raises:
    ArgumentError: An argument that no data set fits; a ValueError.
    DataUnavailableError: the data cannot be had, within seconds.
  """
  parsed = folders.parse_name(name)
  root = folders.resolve_data_dir(data_dir)
  _check(split, max_bytes_in_memory, image_size)
  builder = _open(_prepared_folder(parsed, root, download))
  reader, num_classes = _reader(builder, split, image_size, label_key)
  in_memory = reader.num_bytes() <= max_bytes_in_memory
  return examples_lib.Examples(
      name=name,
      num_classes=num_classes,
      vocab_size=text.VOCAB_SIZE if num_classes is None else None,
      arrays=examples_lib.read_all(reader) if in_memory else None,
      reader=None if in_memory else reader)


def _check(split, max_bytes_in_memory, image_size) -> None:
  if not isinstance(split, str) or not split:
    raise folders.ArgumentError(
        'split', f"must be a string such as 'train', got {split!r}")
  streams.check_integer('max_bytes_in_memory', max_bytes_in_memory, 0)
  if image_size is not None:
    streams.check_integer('image_size', image_size, 1)


def _prepared_folder(name, root: pathlib.Path, download: bool) -> pathlib.Path:
  embedded = preparing.is_embedded(name)
  if embedded:
    name = preparing.pin_embedded(name)
  folder = folders.find_prepared(name, root)
  if folder is not None:
    return folder
  if embedded:
    return preparing.prepare_embedded(name, root)
  return preparing.prepare_official(name, root, download=download)


def _open(folder: pathlib.Path):
  # Here, as it takes most of a second that nothing but load should pay.
  import tensorflow_datasets as tfds
  try:
    _check_features(json.loads((folder / 'features.json').read_text()))
    return tfds.builder_from_directory(folder)
  except Exception as error:  # A broken json raises one of many kinds.
    raise folders.DataUnavailableError(
        f'The description of {folder.parent.name} cannot be read: {error}.',
        folder, 'delete the folder and load again.') from error


def _check_features(features) -> None:
  """Refuse classes of others: TFDS would import, and so run, their modules."""
  if isinstance(features, list):
    for one in features:
      _check_features(one)
  if isinstance(features, dict):
    _check_features(list(features.values()))
    for key in ('pythonClassName', 'type'):
      kind = features.get(key, '')
      if isinstance(kind, str) and '.' in kind and not kind.startswith(
          'tensorflow_datasets.'):
        raise ValueError(f'features.json names {kind!r}, which is no class of '
                         'tensorflow_datasets')


def _reader(builder, split: str, image_size: int | None, label_key: str):
  import tensorflow_datasets as tfds
  features = dict(builder.info.features.items())
  of_type = lambda kind: [
      key for key, feature in features.items() if type(feature) is kind]
  images = of_type(tfds.features.Image)
  texts = of_type(tfds.features.Text)
  if not images and len(texts) == 1 and len(features) == 1:
    return readers.TextReader(_source(builder, split, {}), texts[0]), None
  label_key = _label_key(of_type(tfds.features.ClassLabel), label_key)
  if len(images) != 1 or label_key is None:
    raise folders.ArgumentError(
        'name', f'must be a set with one Image and a ClassLabel, and '
        f'{builder.name} has '
        + ', '.join(f'{k}: {type(f).__name__}' for k, f in features.items()))
  image = features[images[0]]
  if image.np_dtype != 'uint8':
    raise folders.ArgumentError(
        'name', f'must be a set of uint8 images, and those of {builder.name} '
        f'are {image.np_dtype}')
  shape, fit = _image_shape(builder.name, image.shape, image_size)
  decoders = {images[0]: tfds.decode.SkipDecoding()}
  source = _source(builder, split, decoders)
  num_classes = features[label_key].num_classes
  reader = readers.ImageReader(
      source, images[0], label_key, shape, num_classes, fit=fit)
  return reader, num_classes


def _label_key(labels: list[str], label_key: str) -> str | None:
  if not labels:
    return None
  # The only label may have any name; of several, one must be meant.
  if label_key == 'label' and len(labels) == 1:
    return labels[0]
  if label_key not in labels:
    raise folders.ArgumentError(
        'label_key', f'must be one of {labels}, got {label_key!r}')
  return label_key


def _image_shape(name: str, shape, image_size: int | None):
  height, width, channels = shape
  channels = channels or 3
  if image_size is not None:
    return (image_size, image_size, channels), True
  if height is None or width is None:
    raise folders.ArgumentError(
        'image_size', f'must be given, as the images of {name} differ in size, '
        'got None')
  return (height, width, channels), False


def _source(builder, split: str, decoders: dict):
  folder = builder.data_path
  try:
    info = builder.info.splits[split]
  except (ValueError, KeyError) as error:
    raise folders.ArgumentError(
        'split', f'must be one of {sorted(builder.info.splits)} or a slice '
        f"such as 'train[:90%]', got {split!r}") from error
  if not info.num_examples:
    raise folders.ArgumentError(
        'split', f'must not be empty, got {split!r}')
  for instruction in info.file_instructions:
    if not os.path.isfile(instruction.filename):
      raise folders.DataUnavailableError(
          f'{instruction.filename} is missing.', folder,
          'copy the file, or delete the folder and load again.')
  file_format = getattr(builder.info.file_format, 'value', None)
  if file_format == 'array_record':
    source = builder.as_data_source(split, decoders=decoders)
    return sources.ArrayRecordSource(source, info.file_instructions)
  if file_format != 'tfrecord':
    # TFDS 4.9.10 writes only some of the rows of a parquet file, silently.
    raise folders.DataUnavailableError(
        f'{builder.name} is prepared as {file_format}, which is not read.',
        folder, 'delete the folder and load again, to have it as array_record.')
  deserialize = builder.info.features.deserialize_example_np
  return tfrecord.TfRecordSource(
      info.file_instructions,
      lambda record: deserialize(record, decoders=decoders))
