"""The study of `critical_batch`: its parts, and what becomes of them."""

import dataclasses

import numpy as np

from experiments.common import study
from experiments.common.derived import Derived
from experiments.common.parts import Trained
from experiments.critical_batch import analysis, claims
from experiments.critical_batch.config import DOMAINS


class CriticalBatch(study.Study):
  """Merrill et al. 2025."""

  name = 'critical_batch'
  title = 'Merrill et al. 2025: the critical batch size, by branches'
  link = 'https://arxiv.org/abs/2505.23971'
  command = 'make critical_batch'
  sentence = ('Early on, B_S is the critical batch size to a factor of two; '
              'later it is 3 to 5 times that of SGD on digits, and a third of '
              'that of Adam on text. On text, ramps take 10 to 47 % fewer '
              'steps than any fixed batch of their loss; on digits, none '
              'does.')
  setup = ('An MLP on 1,437 digits, with SGD, and a transformer of one layer '
           'and 20,000 parameters on the characters of the help texts of '
           'Python, with Adam. Learning rates are constant, the best that we '
           'tried at the smallest batch (16 images: 0.1 to 0.8; 8 windows of '
           '32 characters: 0.002 to 0.008, the last being best); they grow '
           'with the batch, or with its root. As they do not fall, a larger '
           'batch also does what a smaller rate would do. Branches see as many '
           'examples as 256 steps of that batch, and may end with a loss that '
           'is larger by 10 % (digits) or 1 % (text). We read the abstract of '
           'the paper, which reports 43 % fewer steps for OLMo 1B with a ramp '
           'than in its original run, at slightly better loss; nothing here '
           'is of that size.')
  pictures = {
    'branches_images': 'Digits: the loss against the examples seen, by batch '
                       'size',
    'branches_text': 'Text: the loss against the examples seen, by batch size',
    'critical': 'The critical batch size along the training, measured and '
                'predicted',
    'ramps': 'What ramps by these batch sizes cost, beside fixed batches'}
  figures = {name: f'experiments.critical_batch.figures:{name}' for name in (
    *(f'branches_{domain}' for domain in DOMAINS), 'critical', 'ramps')}
  task = 'experiments.critical_batch.task:of_domains'
  reduce = staticmethod(analysis.reduce)
  claims = staticmethod(claims.claims)

  def stages(self, config, task, done):
    """Yield the trunk, point by point; branches and whole runs; the ramps."""
    makers = [_Maker(config, domain, task and task[domain])
              for domain in config.domains]
    for i in range(len(config.points)):
      trunk = [(maker, maker.trunk(i)) for maker in makers]
      yield [part for _, part in trunk]
      for maker, part in trunk:
        maker.reached(part)
    yield [part for maker in makers for part in (
      maker.advice(done), *maker.branches_and_fixed())]
    plans = {domain: analysis.plans(
      config.setting(domain), analysis.branches(config, domain, done))
             for domain in config.domains}
    for i in range(len(config.points)):
      ramps = [(maker, factors, maker.ramp(factors)) for maker in makers
               for factors in sorted({
                 plan[:i + 1] for plan in plans[maker.domain].values()})]
      yield [part for *_, part in ramps]
      for maker, factors, part in ramps:
        maker.ramped(factors, part)

  def tables(self, config, reduced, summary):
    del summary
    for domain, found in reduced.items():
      yield analysis.table(config.setting(domain), found)
      yield analysis.advice_table(config.setting(domain), found)

  def summarize(self, config, reduced):
    """Return the mean over the seeds of all that was measured."""
    return {domain: found.drop_vars(('size', 'advice')).mean('seed').to_dict()
            for domain, found in reduced.items()}


class _Maker:
  """Makes the parts of one domain, and keeps the states that they go on from.
  """

  def __init__(self, config, domain, task):
    self.config, self.domain, self.task = config, domain, task
    self._parts, self._at_points, self._ramps = [], [], {}
    self._trunk = None

  def trunk(self, i):
    """Go from one point to the next."""
    ends = 0, *self.config.points
    start = self._trunk
    return self._part(
      f'trunk_{i}', 1, ends[i + 1] - ends[i],
      lambda lanes: self.task.program(
        1, lanes['seed'], np.full(len(lanes['seed']), ends[i]),
        start=self._of_seeds(start, lanes), is_tracked=True))

  def reached(self, part):
    """Keep the part, and the state, at a point."""
    self._parts.append(part)
    if self.task:
      self._trunk = self._state(part)
      self._at_points.append(self.task.untracked(self._trunk))

  def advice(self, done):
    """Say what the first run of the trunk knew at each point."""
    return Derived(
      analysis.name_of_advice(self.domain),
      'experiments.critical_batch.advice:at_points',
      (self.config, self.domain, done), self._parts,
      code=['experiments/critical_batch/optimizers.py', 'gradiv/diversity'])

  def branches_and_fixed(self):
    """Branch from all points, and train whole runs, at each batch size."""
    config, points = self.config, self.config.points

    def branched(factor, lanes):
      at = [points.index(point) * config.num_seeds + seed - config.seed
            for point, seed in zip(lanes['point'], lanes['seed'])]
      state = self.task.joined(self._at_points)
      return self.task.program(factor, lanes['seed'], lanes['point'],
                               start=self.task.pick_lanes(state, at))

    for factor in config.factors:
      yield self._part(
        f'branch_{factor}', factor, config.branch_steps,
        lambda lanes, factor=factor: branched(factor, lanes), point=points)
      if factor > 1:
        yield self._part(
          f'fixed_{factor}', factor, config.steps,
          lambda lanes, factor=factor: self.task.program(
            factor, lanes['seed'], np.zeros_like(lanes['seed'])))

  def ramp(self, factors):
    """Go from a point to the next, or to the end, at the last of `factors`."""
    ends, i = (*self.config.points, self.config.steps), len(factors) - 1
    start = self._ramps.get(factors[:-1]) if i else (
      self._at_points[0] if self.task else None)
    return self._part(
      analysis.name_of_ramp(factors), factors[-1], ends[i + 1] - ends[i],
      lambda lanes: self.task.program(
        factors[-1], lanes['seed'], np.full(len(lanes['seed']), ends[i]),
        start=self._of_seeds(start, lanes)))

  def ramped(self, factors, part):
    """Keep the state that a ramp has reached."""
    if self.task:
      self._ramps[factors] = self._state(part)

  def _part(self, name, factor, steps, program, **axes):
    config, domain = self.config, self.domain
    shared = ('dataset', 'image_size', 'model') if domain == 'images' else (
      'text_model', 'text_length')
    own = dataclasses.asdict(config.setting(domain))
    del own['factors'], own['tolerance']  # change no part
    return Trained(
      f'{domain}_{name}', {**axes, 'seed': tuple(config.seeds)}, program,
      config.schedule(steps // factor, config.record_steps // factor),
      workers=config.workers(), defined_by=config.pick(*shared) | own)

  def _state(self, part):
    return part.final_state(
      study.folder_of(self.config), self.config.allow_changed)

  def _of_seeds(self, start, lanes):
    """Pick the lanes of some seeds."""
    return start and self.task.pick_lanes(
      start, [seed - self.config.seed for seed in lanes['seed']])
