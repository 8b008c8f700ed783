"""Characters to tokens: printable ASCII, the newline, and one for the rest.

Token 0 is any character outside the vocabulary, token 1 the newline, and
tokens 2 to 96 are the characters from space to tilde in the order of ASCII.
"""

import numpy as np

_CHARACTERS = '\n' + ''.join(chr(code) for code in range(32, 127))
VOCAB_SIZE = 1 + len(_CHARACTERS)
UNKNOWN = '\0'

# What typesetting makes of ASCII; the text is the same to a reader.
_LOOK_ALIKES = str.maketrans({
    '‘': "'", '’': "'", '“': '"', '”': '"', '–': '-', '—': '-', '…': '...',
    '\t': ' ', '\r': '',
})
_TOKENS = np.zeros([256], np.uint8)
_TOKENS[np.frombuffer(_CHARACTERS.encode(), np.uint8)] = np.arange(
    1, VOCAB_SIZE, dtype=np.uint8)


def to_ascii(text: str) -> bytes:
  """Return one byte a character, the unknown ones as NUL."""
  text = text.translate(_LOOK_ALIKES)
  return ''.join(c if c in _CHARACTERS else UNKNOWN for c in text).encode()


def encode_bytes(text: bytes) -> np.ndarray:
  """Return the tokens of ASCII bytes: uint8 [len(text)]."""
  return _TOKENS[np.frombuffer(text, np.uint8)]


def encode_text(text: str) -> np.ndarray:
  """Return the tokens of a text: uint8.

  >>> encode_text('A z').tolist()
  [35, 2, 92]
  """
  return encode_bytes(to_ascii(text))


def decode_text(tokens: np.ndarray) -> str:
  """Return the text of tokens [length]; unknown ones as U+FFFD.

  >>> decode_text([35, 2, 92, 0])
  'A z�'
  """
  tokens = np.asarray(tokens)
  if tokens.ndim != 1 or (tokens.size and not (
      tokens.dtype.kind in 'iu' and 0 <= tokens.min()
      and tokens.max() < VOCAB_SIZE)):
    raise ValueError('tokens must be integers [length] from 0 to '
                     f'{VOCAB_SIZE - 1}, got {tokens!r}')
  return ''.join('\ufffd' if t == 0 else _CHARACTERS[t - 1] for t in tokens)
