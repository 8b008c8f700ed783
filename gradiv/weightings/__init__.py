"""Rules that turn the Gram matrix of n gradients into the weights of their sum.

Most ways to combine n gradients look at them only through their inner
products. Such a rule is a function from the Gram matrix G_ij = ⟨g_i, g_j⟩ to n
weights, and the update is Σ w_i g_i. Pass a rule to
`gradiv.aggregate_by_weights` to combine the gradients of workers, or call it
on any Gram matrix: of examples (`gradiv.example_gram`) or of several losses
(`gradiv.loss_gram`).
All rules run inside `jax.jit`, in float32, for any n.

>>> import jax.numpy as jnp
>>> from gradiv import weightings
>>> gram = jnp.array([[1., .9, -.5], [.9, 1., -.2], [-.5, -.2, 1.]])
>>> weightings.agreement(0.9)(gram).tolist()  # The third one is left out.
[0.5, 0.5, 0.0]

The tables list when to use which rule, what it costs (operations once the Gram
matrix is known), and what a bad gradient of any size and direction does to the
update. f is the largest number of bad gradients.

Averages, and rules that resist bad workers:

  rule                    use it when                  cost     a bad gradient
  ----------------------- ---------------------------- -------- ----------------
  mean                    as the baseline              n        moves it freely
  norm_clipping           lengths are heavy-tailed     n        adds C/n at most
  krum                    f < n/2 - 1 is known         n² log n is not selected
  minimum_diameter        f is known and n is small    C(n,f)n² moves it little
  geometric_median        an unknown minority is bad   100 n²   moves it little
  centered_clipping       bad workers coordinate over  n²       adds τ/n at most
                          time; needs the last update
  nearest_neighbor_mixing workers' data differ; before n² log n is left to the
                          another robust rule                   next rule

Rules that go by direction, for noisy labels and large numbers of workers:

  agreement               labels are noisy; skips the  n³       is left out, if
                          step if too few agree                 not the anchor
  max_neighbors           the same, without an order   n²       is left out
  adasum                  n grows and the learning     n³       moves it freely
                          rate should stay
  adacons                 lengths vary, directions can n²       can turn it
                          be trusted

Rules for conflicting losses (multi-task learning), g_i the gradient of loss i:

  pcgrad                  conflicts should cost little n³       moves it freely
  gradvac                 the tasks usually agree      n⁴       moves it freely
  upgrad                  no loss should increase      n⁵       moves it freely
  dual_proj               the same, nearest the mean   n⁴       moves it freely
  mgda                    the worst loss matters most  n⁴       stops it if zero
  cagrad                  the same, near the mean      n⁴       moves it freely
  nash_mtl                scales of losses vary        n³       can turn it
  imtl_g                  losses should progress alike n³       can turn it
  conflict_free           the same; long if they agree n³       moves it freely
  aligned_mtl             some losses dominate         n³       can turn it
  fairgrad                how fair is up to you        n³       can turn it
  pcd                     the first loss is the goal   n⁴       can turn it
  modo                    the same as mgda, noisy      n²       stops it slowly
  sdmgrad                 the same, near the mean      n²       can turn it
  cr_mogm                 another rule's weights jump  n        as the rule's

`with_alarm` puts an alarm beside any rule, which names a worker that is not
like the others, and `read_alarm` reads it.

Adding a weighting. A rule without memory is a function of the Gram matrix and
of which gradients are present; absent ones have rows and columns of zeros.
(`gradiv.aggregate_by_weights` takes a function of the Gram matrix alone as it
is. Use that only if an absent gradient may count as a zero one.)

>>> def unit_mean(gram, present):
...   '''Average the directions: w_i = 1/(n ‖g_i‖).'''
...   norms = jnp.sqrt(jnp.diagonal(gram))
...   inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
...   return inverse * weightings.uniform(present)
>>> rule = weightings.stateless(unit_mean)
>>> rule(jnp.diag(jnp.array([1., 16.]))).tolist()  # Lengths 1 and 4.
[0.5, 0.125]

A rule with memory is a `Weighting` of a step, from (gram, present, state, key)
to (weights, state), and of the state before the first step:

>>> def clip_to_usual(decay):
...   '''Clip each gradient to the average of the mean norm so far.'''
...   def step(gram, present, usual, key):
...     norms = jnp.sqrt(jnp.diagonal(gram))
...     mean_norm = jnp.sum(norms * weightings.uniform(present))
...     usual = jnp.where(usual > 0, decay * usual + (1 - decay) * mean_norm,
...                       mean_norm)
...     shrink = jnp.minimum(1, usual / jnp.where(norms > 0, norms, 1))
...     return shrink * weightings.uniform(present), usual
...   return weightings.Weighting(step, init=lambda n: jnp.zeros(()))
>>> rule = clip_to_usual(0.9)
>>> gram, present = jnp.diag(jnp.array([4., 36.])), jnp.ones(2, bool)
>>> weights, state = rule.step(gram, present, rule.init(2), None)
>>> # Lengths 2 and 6 with a mean of 4, to which the second one is clipped.
>>> [round(w, 3) for w in weights.tolist()], state.item()
([0.5, 0.333], 4.0)

Both kinds go into an optimizer in the same way:
``optax.chain(gradiv.aggregate_by_weights(rule, 'workers'), optax.sgd(0.1))``.
The flags of `Weighting` tell `aggregate_by_weights` what else a rule needs: a
key, n, extra rows, or only differences of gradients.
"""

# The rules, and the alarm that watches beside any of them.
from gradiv.weightings.adacons import (
  AdaConsState as AdaConsState,
  adacons as adacons,
)
from gradiv.weightings.adasum import adasum as adasum
from gradiv.weightings.alarm import (
  Alarm as Alarm,
  AlarmState as AlarmState,
  read_alarm as read_alarm,
  with_alarm as with_alarm,
)
from gradiv.weightings.aligned_mtl import aligned_mtl as aligned_mtl
from gradiv.weightings.averaging import (
  mean as mean,
  norm_clipping as norm_clipping,
)
from gradiv.weightings.cagrad import cagrad as cagrad
from gradiv.weightings.centered_clipping import (
  centered_clipping as centered_clipping,
)
from gradiv.weightings.conflict_free import conflict_free as conflict_free
from gradiv.weightings.cr_mogm import (
  CRMOGMState as CRMOGMState,
  cr_mogm as cr_mogm,
)
from gradiv.weightings.double_sampling import (
  modo as modo,
  sdmgrad as sdmgrad,
)
from gradiv.weightings.dual_cone import (
  dual_proj as dual_proj,
  upgrad as upgrad,
)
from gradiv.weightings.fairgrad import fairgrad as fairgrad
from gradiv.weightings.filtering import (
  COMBINE as COMBINE,
  AgreementState as AgreementState,
  Threshold as Threshold,
  agreement as agreement,
)
from gradiv.weightings.geometric_median import (
  geometric_median as geometric_median,
)

# The building blocks of rules.
from gradiv.weightings.geometry import (
  cosine_distance as cosine_distance,
  sq_distances as sq_distances,
)
from gradiv.weightings.gradient_surgery import (
  gradvac as gradvac,
  pcgrad as pcgrad,
)
from gradiv.weightings.imtl_g import imtl_g as imtl_g
from gradiv.weightings.joining import (
  allowed_distance as allowed_distance,
  joining_weights as joining_weights,
)
from gradiv.weightings.krum import krum as krum, krum_scores as krum_scores
from gradiv.weightings.max_neighbors import max_neighbors as max_neighbors
from gradiv.weightings.mgda import mgda as mgda
from gradiv.weightings.minimum_diameter import (
  minimum_diameter as minimum_diameter,
)
from gradiv.weightings.nash_mtl import nash_mtl as nash_mtl
from gradiv.weightings.nearest_neighbor_mixing import (
  nearest_neighbor_mixing as nearest_neighbor_mixing,
)
from gradiv.weightings.pcd import PCDState as PCDState, pcd as pcd
from gradiv.weightings.weighting import (
  Weighting as Weighting,
  stateless as stateless,
  uniform as uniform,
  with_extra as with_extra,
)
