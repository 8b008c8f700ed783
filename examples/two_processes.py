"""Two processes, as on two hosts: agreement inside a host, the mean between.

  python -m examples.two_processes

Each process has four devices, reads its own examples, and filters the gradients
of its four workers by agreement. The slices of the result, one on each device,
are averaged between the hosts and then gathered inside of them. With D = 1,154
parameters, the compiled step of a device contains, up to padding,

  inside a host    an all-to-all and an all-gather of D elements each, and an
                   all-reduce of 4·4 products and 5 counts
  between hosts    an all-reduce of the slices, D/4 elements, and of one count
  over both        an all-reduce of the loss, to print it
"""

import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import gradiv

tx = optax.chain(
  gradiv.aggregate_by_agreement(1.0, 'workers', sharded=True),
  gradiv.aggregate_by_mean('hosts'),
  optax.stateless(lambda slices, params: gradiv.aggregation.gather_leaves(
    slices, params, 'workers')),
  optax.adam(1e-2))


def loss(params, x, y):
  logits = jnp.tanh(x @ params['hidden']) @ params['out'] + params['bias']
  return optax.losses.softmax_cross_entropy_with_integer_labels(
    logits, y).mean()


def step(params, state, x, y):
  value, grads = jax.value_and_grad(loss)(params, x, y)
  updates, state = tx.update(grads, state, params)
  mean = jax.lax.pmean(value, ('hosts', 'workers'))
  return optax.apply_updates(params, updates), state, mean


def init():
  w = lambda *shape: jax.random.normal(jax.random.key(0), shape) / 8
  params = {'hidden': w(16, 64), 'out': w(64, 2), 'bias': jnp.zeros(2)}
  return params, tx.init(params)


def build():
  """Return the step, the start, and where the rows of a batch lie."""
  mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ('hosts', 'workers'),
              axis_types=(AxisType.Auto,) * 2)
  rows = P(('hosts', 'workers'))
  run = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), rows, rows),
                      out_specs=P(), check_vma=False)
  start = jax.jit(init, out_shardings=NamedSharding(mesh, P()))()
  return jax.jit(run, donate_argnums=(0, 1)), start, NamedSharding(mesh, rows)


def main(process_id, port):
  jax.config.update('jax_num_cpu_devices', 4)
  jax.distributed.initialize(f'127.0.0.1:{port}', 2, process_id)
  run, (params, state), rows = build()
  rng = np.random.default_rng(process_id)  # each process reads its own part
  for _ in range(100):
    x = rng.normal(size=(128, 16)).astype('f')
    batch = [jax.make_array_from_process_local_data(rows, a)
             for a in (x, (x[:, 0] > 0).astype('i'))]
    params, state, value = jax.block_until_ready(run(params, state, *batch))
  if process_id == 0:
    print(f'loss {value:.2f}')
  jax.distributed.shutdown()


if __name__ == '__main__':
  if sys.argv[1:]:
    main(1, sys.argv[1])
  else:
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = str(free.getsockname()[1])
    other = subprocess.Popen([sys.executable, __file__, port])
    main(0, port)
    sys.exit(other.wait())
