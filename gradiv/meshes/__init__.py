"""Plain `jit` over arrays that are sharded on a mesh.

Named axes are one way to say what a worker is. On a mesh there are others:

* gradients with a leading axis of workers, from `per_worker_value_and_grad`:
  `on_mesh` runs a chain on them, of Auto or Explicit axes;
* gradients of type `unreduced`, under Explicit axes: `reduce` in place of
  `jax.reshard`, `moments` and `gram` of what is not reduced yet, and
  `worker_rows` for a whole chain by `on_mesh`;
* FSDP, which reduces in the backward pass: `fsdp` looks before that.

docs/your_loop.md says which one fits a training loop.
"""

from gradiv.meshes import fsdp as fsdp
from gradiv.meshes.plain_jit import on_mesh as on_mesh
from gradiv.meshes.unreduced import (
  gram as gram,
  moments as moments,
  reduce as reduce,
  worker_rows as worker_rows,
)
from gradiv.meshes.worker_gradients import (
  per_worker_value_and_grad as per_worker_value_and_grad,
)
