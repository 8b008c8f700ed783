"""Data: one `load` for arrays and text, and the order in which a run reads.

What a step sees is a pure function of (seed, step): nothing here holds state,
so a run resumes at any step without replaying the ones before it. Every name
below is cheap to import; TFDS, scikit-learn and Pillow wait for `load`.
"""

# Names are imported to be exported.
# flake8: noqa: F401
from experiments.data.augmentation import (
    augment_cifar as augment_cifar,
    standardize as standardize,
)
from experiments.data.balancing import balanced_order as balanced_order
from experiments.data.examples import Examples as Examples
from experiments.data.folders import (
    ArgumentError as ArgumentError,
    DataUnavailableError as DataUnavailableError,
)
from experiments.data.loading import load as load
from experiments.data.ordering import order as order
from experiments.data.text import (
    VOCAB_SIZE as VOCAB_SIZE,
    decode_text as decode_text,
    encode_text as encode_text,
)
from experiments.data.transforms import (
    channel_statistics as channel_statistics,
    flip_labels as flip_labels,
    hold_out as hold_out,
    replicate as replicate,
)
