"""One run of one's own model and data: the front door of the engine."""

import contextlib
import math
import pathlib
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import report
from experiments.data import pipeline
from experiments.engine import (
  arguments,
  control,
  identity,
  processes,
  signals,
  tracking,
  trainer,
  writers as writers_lib,
)


def fit(
  init: Callable[[jax.Array], Any],
  loss: Callable,
  optimizer: optax.GradientTransformation,
  batches: pipeline.Batches | Callable[[int], Any],
  evaluate: Callable | None = None,
  *,
  workdir: str | pathlib.Path,
  steps: int | trainer.Schedule,
  every: int | None = None,
  held_out: Any = (),
  read: Callable[[Any], dict] | None = None,
  model_state: Callable[[Any], Any] | None = None,
  view: Callable[[Any, Any], Any] | None = None,
  accumulate: int = 1,
  compute_dtype: Any = None,
  workers: trainer.Workers = trainer.Workers(),
  batch_size: control.Control | None = None,
  seed: int = 0,
  config: dict | None = None,
  allow_changed: Collection[str] = (),
  writers: Sequence[str | writers_lib.Writer] = (),
  profile: tuple[int, int] | None = None,
  max_nonfinite: int = 100,
  stuck_after: float = 0.0,
  stop: signals.Stop | None = None,
  title: str = '',
) -> dict:
  """Train one model, and save, record and resume as the papers do.

  A run that was cut off goes on bit for bit when it is called again; one that
  is finished is read and not trained, which a line says. Ctrl-C and SIGTERM
  finish the scan, save, and raise `signals.Interrupted`. Where the optimizer
  tracks moments, the run ends with a line that says what other batch sizes
  would cost; in any case it writes `report.html`, see `experiments.report`.

  Args:
    init: key -> params, any tree of arrays. Traced, as are the next three.
    loss: (params, batch, key) -> the mean loss over the batch, or that and a
      dict of scalars to record. The key is fresh in each step.
    optimizer: Takes the gradient of a worker. With several workers, it begins
      with a transformation that aggregates over 'workers'.
    batches: Of `pipeline.in_memory` or `pipeline.streamed`; or a function from
      a step to a tree of NumPy arrays [batch size, ...], pure and safe to call
      in a thread.
    evaluate: (params, held_out) -> a dict of scalars to record.
    workdir: A folder of this run alone.
    steps: How many; or a `Schedule`.
    every: Steps between two records, evaluations and chances to save; divides
      steps. By default 100, or the largest divisor of both.
    held_out: The arrays that `evaluate` takes.
    read: opt_state -> a dict of scalars to record. By default what
      `gradiv.track_moments` knows, see `tracking.tracked`.
    model_state: params -> the first of what the loss changes; see `Program` for
      the loss and evaluate of such a model.
    view: (params, opt_state) -> the params to evaluate, such as their average.
    accumulate: Micro-batches that a worker's batch is split into.
    compute_dtype: What the loss computes in, such as jnp.bfloat16.
    workers: Who computes: workers that share each batch.
    batch_size: A controller that chooses the batch size after each scan, with
      the learning rate; the optimizer is then without one. `batches` are those
      of the smallest size, and `steps` and all periods count them.
    seed: Of the first params and the keys.
    config: What else defines the run, as JSON, such as the learning rate: a
      folder with a run of another config is refused. What is not named here is
      not compared, but for the seed, the workers, and the shapes of the state.
    allow_changed: Names in `config` that may differ.
    writers: Among 'tensorboard' and 'wandb'; or objects of one's own.
    profile: (first, end): the steps to trace, first to end - 1.
    max_nonfinite: Steps in a row without a finite gradient of any worker after
      which to save and raise `NonFiniteError`; 0: never.
    stuck_after: Seconds without progress after which to say on stderr which
      process is stuck, at which step; 0: many, see `train`.
    stop: What to ask whether to stop, in place of signals.
    title: For the progress line.

  Returns:
    A dict of the final 'params', 'opt_state' and, where there is one,
    'model_state'.

  Raises:
    ValueError: Where an argument is out of range or does not fit the others,
      before anything is trained; and whatever else `train` raises.
    OtherRunError: Where `workdir` holds the run of a paper's command, too.
  """
  arguments.functions(
    init=init, loss=loss, evaluate=evaluate, read=read,
    model_state=model_state, view=view)
  arguments.whole('seed', seed, 0, 2**32)
  arguments.whole('accumulate', accumulate, 1)
  arguments.floating('compute_dtype', compute_dtype)
  if not (hasattr(optimizer, 'init') and hasattr(optimizer, 'update')):
    raise ValueError(f'optimizer={optimizer!r}: must be an '
                     'optax.GradientTransformation')
  if not isinstance(steps, trainer.Schedule):
    arguments.whole('steps', steps, 1)
    if every is not None:
      arguments.whole('every', every, 1)
    steps = trainer.Schedule(steps, every or math.gcd(steps, 100))
  if not isinstance(batches, pipeline.Batches):
    batches = pipeline.by_step(batches)
  if processes.count() > 1 and workers.backend != 'shard_map':
    raise ValueError(
      f'workers={workers}: each of {processes.count()} processes would train '
      "alone; pass engine.Workers(count, 'shard_map')")
  identity.check_no_study(pathlib.Path(workdir))
  data = {'batches': batches.data, 'held_out': held_out}
  if workers.num_workers == 1:
    optimizer = _of_one_worker(optimizer, workers.axis_name)
  program = trainer.Program(
    lanes={'seed': jnp.array([seed], jnp.uint32),
           'order': jnp.zeros(1, jnp.int32)},
    data=jax.tree.map(jnp.asarray, data),
    init=lambda lane: init(trainer.key_for(lane['seed'], 'init')),
    make_optimizer=lambda lane: optimizer,
    fetch=batches.fetch,
    batch=lambda data, lane, rows: batches.batch(data['batches'], lane, rows),
    gather=batches.gather,
    loss=loss,
    evaluate=lambda data, lane, *state: {} if evaluate is None else evaluate(
      *state, data['held_out']),
    read=read or tracking.tracked,
    model_state=None if model_state is None else (
      lambda lane, params: model_state(params)),
    view=view or (lambda params, opt_state: params),
    accumulate=accumulate, compute_dtype=compute_dtype, control=batch_size,
    is_single=True)
  defined_by = {'seed': seed, 'num_workers': workers.num_workers}
  if workers.allow_reshape:
    allow_changed = [*allow_changed, 'num_workers']
  with _listening(stop) as heard:
    try:
      state = trainer.train(
        program, steps, workdir, config=defined_by | (config or {}),
        workers=workers, stop=heard, title=title or pathlib.Path(workdir).name,
        allow_changed=allow_changed, writers=writers, profile=profile,
        max_nonfinite=max_nonfinite, stuck_after=stuck_after)
    except ValueError as error:
      if 'out_axes is None' not in str(error):
        raise
      raise ValueError(
        f'the params of {workers.num_workers} workers differ: let the '
        f'optimizer begin with gradiv.aggregate_by_mean({workers.axis_name!r})'
      ) from error
  if processes.is_first():
    report.write_at_end(workdir)
  return state


def mean_over(values: Callable[[Any], Any], examples: Any, at_once: int) -> Any:
  """Average what each example has, over any number of them, in equal batches.

  The last batch is filled up, and what fills it does not count.

  >>> mean_over(lambda batch: {'x': batch}, jnp.arange(5.), 2)
  {'x': Array(2., dtype=float32)}

  Args:
    values: batch [at_once, ...] -> a tree of arrays [at_once].
    examples: A tree of arrays [n, ...].
    at_once: How many to evaluate at once.
  """
  count = len(jax.tree.leaves(examples)[0])
  rows = np.arange(-(-count // at_once) * at_once).reshape(-1, at_once)

  def one(rows):
    batch = jax.tree.map(lambda x: x[jnp.minimum(rows, count - 1)], examples)
    keep = rows < count
    return jax.tree.map(
      lambda x: jnp.where(keep, x.astype(jnp.float32), 0).sum(), values(batch))

  sums = jax.lax.map(one, jnp.asarray(rows))
  return jax.tree.map(lambda x: x.sum() / count, sums)


def _of_one_worker(optimizer, axis_name):
  """Say that the gradient of the only worker is that of all workers."""
  inner = optax.with_extra_args_support(optimizer)

  def update(grads, state, params=None, **extra):
    return inner.update(jax.lax.pmean(grads, axis_name), state, params, **extra)

  return optax.GradientTransformationExtraArgs(inner.init, update)


def _listening(stop):
  """Listen to signals, where the caller does not and Python allows it."""
  is_main = threading.current_thread() is threading.main_thread()
  if stop is not None or not is_main:
    return contextlib.nullcontext(stop)
  return signals.listen()
