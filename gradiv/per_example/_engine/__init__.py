"""The engine behind the per-example statistics.

`gradiv/per_example/README.md` walks one gradient through it and lists the
files in reading order.
"""

# Importing the package `primitives` fills the registry.
from gradiv.per_example._engine import primitives as primitives
