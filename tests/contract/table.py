"""Every public transformation, with its arguments and what it claims."""

import jax
import jax.numpy as jnp
import optax

import gradiv
from gradiv import (
  aggregation,
  compression,
  decentralized,
  diversity,
  perturbations,
  scaling,
  staleness,
  topology,
  weightings as w,
)
from tests.contract.row import Row, by_keywords, weighed

WORKERS = 8
KEY = jax.random.key(7)
RING = topology.ring(WORKERS)
BY_LAYER = gradiv.Layout(groups=gradiv.by_layer)
HALF = compression.keep_top_k(0.5)


def agreed(name, numbers=None, **options):
  """Make a row of `aggregate_by_agreement`."""
  return Row(
    f'agreement_{name}', aggregation.aggregate_by_agreement, options,
    {'max_cosine_distance': 1.0, 'num_stddevs': 2.0},
    formula_only=name not in (
      'running_mean', 'shuffled', 'by_layer', 'windowed'),
    permutes=options.get('combine') == 'leave_one_out',
    # The order of fewer workers is another draw.
    leaves_out='key' not in options)


def mixes(name, *args, **kwargs):
  """Make a row of a decentralized step over the ring."""
  return Row(name, getattr(decentralized, name), *args, kind='own', **kwargs)


def scaled(name, inner, *, options=None, groups=None, **claims):
  """Make a row of `scale_by_diversity` for the gradients of workers."""
  numbers = {'batch_size': 4.0, 'scale': 8.0, 'learning_rate': 0.1,
             'min_gain': 1.0, 'max_gain': 6.0, 'end': 1e4, 'power': 0.5}

  def factory(axis_name, **numbers):
    return scaling.scale_by_diversity(
      gradiv.track_moments(axis_name, batch_size=4, groups=groups),
      inner(axis_name), groups=groups, **options or {}, **numbers)

  return Row(name, by_keywords(factory, ('axis_name', *numbers)),
             numbers=numbers, covers=(scaling.scale_by_diversity,), **claims)


RULES = (
  Row('aggregate_by_mean', aggregation.aggregate_by_mean),
  *(Row(f'quantized_mean_{bits}', compression.aggregate_by_quantized_mean,
        {'num_bits': bits, 'key': KEY}, {'batch_size': 2.0},
        formula_only=bits == 4,
        # Rounded by draws of the worker and of the place.
        permutes=False, flips=False, gain=None, leaves_out=False)
    for bits in (8, 4)),
  Row('low_rank', compression.aggregate_by_low_rank, {'rank': 1, 'key': KEY},
      gain=None),
  *(agreed(combine, combine=combine) for combine in w.COMBINE),
  agreed('shuffled', key=KEY),
  agreed('any_anchor', num_anchors=8),
  agreed('mean_else', fallback='mean'),
  agreed('by_layer', layout=BY_LAYER),
  agreed('windowed', window=20),
  Row('median', aggregation.aggregate_by_median),
  Row('trimmed_mean', aggregation.aggregate_by_trimmed_mean,
      {'num_trimmed': 2}),
  Row('bulyan', aggregation.aggregate_by_bulyan, {'num_byzantine': 0}),
  Row('sign_agreement', aggregation.aggregate_by_sign_agreement, {},
      {'threshold': 0.4}),
  Row('sign_agreement_normalized', aggregation.aggregate_by_sign_agreement,
      {'normalize': True}, {'threshold': 0.4}),
  Row('smooth_sign_agreement', aggregation.aggregate_by_smooth_sign_agreement,
    {},
      {'threshold': 0.4, 'sharpness': 1.0}, scales=False, flips=False),
  Row('sign_majority', aggregation.aggregate_by_sign_majority,
      scales=False, flips=False, gain=None),
  Row('sign_dropout', aggregation.aggregate_by_sign_dropout, {'key': KEY},
      # Fewer workers hold other slices, and draw anew.
      flips=False, gain=WORKERS, leaves_out=False),
)

WEIGHED = (
  weighed('weights_of_a_function', lambda: lambda gram: jnp.ones(
    len(gram)) / len(gram), leaves_out=False, formula_only=False),
  weighed('stateless', w.stateless, kwargs={
    'fn': lambda gram, present: w.uniform(present)}),
  weighed('mean_weights', w.mean, options={'num_workers': WORKERS},
          leaves_out=False),  # declared to be eight
  weighed('agreement_weights', w.agreement, {
    'max_cosine_distance': 1.0, 'num_stddevs': 2.0}, permutes=False),
  weighed('krum', w.krum, {'power': 2.0},
          kwargs={'num_byzantine': 1, 'num_selected': 3}),
  weighed('geometric_median', w.geometric_median, {'smoothing': 1e-3}),
  weighed('norm_clipping', w.norm_clipping, {'max_norm': 1.0}, scales=False,
          gain=None),
  # Looks back at its last update.
  weighed('centered_clipping', w.centered_clipping, {'radius': 1.0},
          scales=False, gain=None, formula_only=False),
  weighed('mixed_krum', w.nearest_neighbor_mixing,
          kwargs={'num_byzantine': 1, 'then': w.krum(1)}),
  # Several sets may share the pair that is farthest apart; the first counts.
  weighed('minimum_diameter', w.minimum_diameter,
          kwargs={'num_byzantine': 2}, permutes=False),
  # The first of sets as large.
  weighed('max_neighbors', w.max_neighbors, {'max_cosine_distance': 0.9},
          permutes=False),
  weighed('adasum', w.adasum, permutes=False),
  # Its update has the length of one gradient, whatever their lengths; its
  # state depends on the number of workers.
  weighed('adacons', w.adacons, {'decay': 0.9},
          options={'num_workers': WORKERS}, scales=False, gain=None,
          leaves_out=False, formula_only=False),
  # Whose turn it is, is drawn by the number of the worker.
  weighed('pcgrad', w.pcgrad, options={'key': KEY}, permutes=False,
          gain=WORKERS, leaves_out=False, rtol=1e-3, formula_only=False),
  weighed('gradvac', w.gradvac, {'decay': 0.5},
          options={'key': KEY, 'num_workers': WORKERS}, permutes=False,
          gain=WORKERS, leaves_out=False, rtol=1e-3),
  weighed('mgda', w.mgda),
  weighed('cagrad', w.cagrad, {'c': 0.5}, gain=1.5, rtol=1e-3),
  # A product of gains knows no scale.
  weighed('nash_mtl', w.nash_mtl, {'max_norm': 1.0}, scales=False, gain=None,
          rtol=1e-3),
  weighed('fairgrad', w.fairgrad, {'alpha': 1.0}, scales=False, gain=None,
          rtol=1e-3),
  # Those that get num_workers remember the weight of each worker.
  weighed('modo', w.modo, {'step_size': 0.1, 'decay': 0.1},
          options={'num_workers': WORKERS}, permutes=False, scales=False,
          leaves_out=False),
  weighed('sdmgrad', w.sdmgrad, {
    'strength': 0.3, 'step_size': 0.1, 'momentum': 0.5},
          options={'num_workers': WORKERS}, permutes=False, leaves_out=False,
          rtol=1e-3),
  # The first worker's is the one to follow.
  weighed('pcd', w.pcd, {'progress': 0.1, 'decay': 0.9, 'eps': 1e-8},
          options={'num_workers': WORKERS}, permutes=False, scales=False,
          leaves_out=False, rtol=1e-3),
  weighed('cr_mogm', w.cr_mogm, {'decay': 0.9}, kwargs={'then': w.mgda()},
          options={'num_workers': WORKERS}, permutes=False, leaves_out=False,
          rtol=1e-3),
  weighed('with_alarm', w.with_alarm, {
    'steps_to_false_alarm': 1e5, 'jump': 2.0}, kwargs={'then': w.mean()},
          options={'num_workers': WORKERS}, permutes=False, leaves_out=False),
  weighed('imtl_g', w.imtl_g, rtol=1e-3),
  weighed('conflict_free', w.conflict_free, gain=WORKERS, rtol=1e-3),
  weighed('aligned_mtl', w.aligned_mtl, kwargs={'scale_mode': 'rmse'},
          rtol=1e-3),
  weighed('upgrad', w.upgrad, {'ridge': 1e-4}, rtol=1e-3),
  weighed('dual_proj', w.dual_proj, {'ridge': 1e-4}, rtol=1e-3),
  weighed('dual_proj_by_layer', w.dual_proj, {'ridge': 1e-4},
          options={'layout': BY_LAYER}, rtol=1e-3, formula_only=False),
)

BEFORE_THE_WIRE = (
  Row('track_moments', diversity.track_moments, {},
      {'batch_size': 4.0, 'decay': 0.9, 'level': 0.9, 'num_examples': 1e4},
      kind='before'),
  Row('track_moments_by_layer', diversity.track_moments,
      {'groups': gradiv.by_layer},
      {'batch_size': 4.0, 'decay': 0.9, 'level': 0.9, 'num_examples': 1e4},
      kind='before'),
  Row('drop_updates', perturbations.drop_updates, {'key': KEY}, {'rate': 0.3},
      kind='before', permutes=False),
  scaled('scale_by_diversity', lambda axis_name: optax.identity(),
         kind='before'),
  Row('langevin_noise', perturbations.add_langevin_noise, {'key': KEY},
      {'stddev': 0.1}, kind='before', permutes=False),
  Row('quantize_updates', perturbations.quantize_updates,
      {'num_levels': 2, 'key': KEY}, kind='before', permutes=False),
)

OWN = (
  Row('delay_by_worker', staleness.delay_updates,
      {'staleness': (0, 1, 2, 3) * 2}, kind='own'),
  Row('delay_drawn', staleness.delay_updates,
      {'staleness': staleness.Drawn((0.5, 0.5)), 'key': KEY}, kind='own'),
  Row('feedback_of_top_k', compression.with_error_feedback,
      {'compressor': HALF}, kind='own'),
  Row('feedback_of_low_rank',
      lambda axis_name: compression.with_error_feedback(
        compression.aggregate_by_low_rank(1, axis_name, key=KEY)),
      kind='own', covers=(compression.with_error_feedback,
                          compression.aggregate_by_low_rank)),
  scaled('scale_by_diversity_of_adam', lambda axis_name: optax.chain(
    gradiv.aggregate_by_mean(axis_name), optax.scale_by_adam()),
         options={'precondition': scaling.precondition_like_adam()},
         groups=gradiv.by_layer, kind='own'),
  mixes('mix_by_gossip', {'mixing_matrix': RING, 'order': 'cta'}),
  mixes('mix_by_choco', {'mixing_matrix': RING, 'compressor': HALF},
        {'consensus_step': 0.5}),
  mixes('mix_by_exact_diffusion', {'mixing_matrix': topology.lazy(RING)}),
  mixes('mix_by_extra', {'mixing_matrix': RING}),
  mixes('mix_by_gradient_tracking', {'mixing_matrix': RING}),
  mixes('mix_by_quasi_global_momentum', {'mixing_matrix': RING},
        {'momentum': 0.9, 'decay': 0.9}),
  mixes('mix_by_decentlam', {'mixing_matrix': RING}, {'momentum': 0.9}),
  mixes('mix_by_push_sum', {'mixing_matrix': RING}),
  mixes('mix_by_relay', {'tree': topology.chain(WORKERS)}),
  mixes('mix_by_outer_step', {'outer': optax.adam(0.1), 'period': 2,
                              'delay': 1}, {'blend': 0.5}),
  mixes('local_sgd', {'period': 2}),
  mixes('mix_by_slow_momentum', {'period': 2},
        {'momentum': 0.9, 'learning_rate': 0.5}),
  mixes('diloco', {'period': 4, 'num_fragments': 2},
        {'momentum': 0.9, 'learning_rate': 0.5, 'blend': 0.5}),
)

ALONE = (
  Row('accumulate_by_agreement', aggregation.accumulate_by_agreement,
      {'num_micro_steps': 3}, {'max_cosine_distance': 1.0}, kind='alone'),
  Row('accumulate_first', aggregation.accumulate_by_agreement,
      {'num_micro_steps': 3, 'combine': 'first'},
      {'max_cosine_distance': 1.0}, kind='alone', formula_only=True),
  Row('accumulate_moments', diversity.accumulate_moments,
      {'num_micro_steps': 3, 'inner': optax.adam(0.1)}, {'batch_size': 2.0},
      kind='alone'),
  Row('skip_zero_updates', aggregation.skip_zero_updates,
      {'inner': optax.adam(0.1)}, kind='alone'),
  Row('precondition_langevin', perturbations.precondition_langevin,
    {'key': KEY},
      {'stddev': 0.1, 'decay': 0.9, 'eps': 1e-5}, kind='alone'),
  Row('delay_updates', staleness.delay_updates, {'staleness': 2}, kind='alone'),
  Row('delay_by_leaf', staleness.delay_updates,
      {'staleness': lambda path: len(path)}, kind='alone'),
  Row('compensate_delay', staleness.compensate_delay, {}, {'strength': 0.1},
      kind='alone', composes=False, fixed=('decay', 'eps'),
      needs=lambda params: {'stale_params': params}),
  Row('compensate_delay_normalized', staleness.compensate_delay,
      {'curvature': 'normalized'},
      {'strength': 0.1, 'decay': 0.9, 'eps': 1e-7}, kind='alone',
      composes=False, needs=lambda params: {'stale_params': params}),
  Row('scale_by_staleness', staleness.scale_by_staleness,
      {'rule': staleness.divide_by_staleness}, kind='alone',
      needs=lambda params: {'staleness': 3}),
  Row('with_staleness', staleness.with_staleness, {
    'delay': staleness.delay_updates(2), 'inner': optax.chain(
      staleness.scale_by_staleness(staleness.divide_by_staleness),
      # Its own epsilon is zero in float16.
      optax.adam(0.1, eps=1e-3))}, kind='alone'),
  Row('scale_by_predicted_rate', scaling.scale_by_predicted_rate, {
    'track': gradiv.track_moments(), 'inner': optax.trace(0.9),
    'rule': lambda rate, estimate: scaling.online_rate(
      rate, estimate, reference_batch_size=1, batch_size=4)},
      {'learning_rate': 0.1}, kind='alone',
      needs=lambda params: {'moments': gradiv.Moments(8., 1., 3., 9.)}),
  Row('keep_top_k', compression.keep_top_k, {'fraction': 0.5},
      fixed=('fraction',), kind='alone'),
  Row('keep_signs', compression.keep_signs, kind='alone'),
)

TABLE = RULES + WEIGHED + BEFORE_THE_WIRE + OWN + ALONE


def named(rows=TABLE):
  """List rows as arguments of `parameterized.named_parameters`."""
  return [(row.name, row) for row in rows]


def first_of_each_function(rows):
  """List the first row of each public function that makes a transformation."""
  return tuple({(row.covers or (row.factory,))[0]: row
                for row in reversed(rows)}.values())[::-1]


# Those that differ in more than a formula from all rows before, and one row of
# each function: the dearer a test is, the fewer rows take it in each run.
DISTINCT = tuple(row for row in TABLE if not row.formula_only)
FUNCTIONS = first_of_each_function(DISTINCT)
