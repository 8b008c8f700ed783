"""The primitives that the engine knows: one file for each, or each family.

To add one, write such a file, call `registry.register` in it and import it
here; `gradiv/per_example/README.md` shows an example. A rule of `product`
lets a gradient be cut at the primitive; a rule of `linear` lets the walk back
go on through it.
"""

from gradiv.per_example._engine.primitives import (
  branches_and_loops as branches_and_loops,
  casting as casting,
  complex_numbers as complex_numbers,
  convolution as convolution,
  dot_general as dot_general,
  dynamic_update_slice as dynamic_update_slice,
  linear_maps as linear_maps,
  multiplication as multiplication,
  rearranging as rearranging,
  scatter_add as scatter_add,
  slicing as slicing,
  sums as sums,
  zero_padding as zero_padding,
)
