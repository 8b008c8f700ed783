"""Plain `jit` over arrays that are sharded on a mesh.

Named axes are one way to say what a worker is. On a mesh there are others:

* `on_mesh` runs a chain on gradients with a leading axis of workers, which
  `per_worker_value_and_grad` computes;
"""

from gradiv.meshes.plain_jit import on_mesh as on_mesh
from gradiv.meshes.worker_gradients import (
  per_worker_value_and_grad as per_worker_value_and_grad,
)
