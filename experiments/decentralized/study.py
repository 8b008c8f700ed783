"""Trains the arms of `decentralized`."""

import pathlib
from concurrent import futures

from experiments.decentralized import analysis, arms, task
from experiments.decentralized.config import Config
from experiments.engine import signals, trainer


def train_all(config: Config, stop: signals.Stop) -> None:
  """Train whatever is not trained yet, some arms side by side."""
  problems = {domain: task.Problem(config, domain)
              for domain in config.domains}
  with futures.ThreadPoolExecutor(config.arms_at_once) as pool:
    # In order: what an arm waits for has begun before it.
    trained, jobs = {}, []
    for arm in arms.list_arms(config):
      partner = trained.get(analysis.main_arm(config))
      job = pool.submit(train, config, problems[arm.domain], arm, stop,
                        partner if arm.name == 'imposed' else None)
      trained.setdefault(arm.name, job)
      jobs.append(job)
    try:
      for job in jobs:
        job.result()
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise



def train(config: Config, problem: task.Problem,
          arm: arms.Arm, stop: signals.Stop,
          partner: futures.Future | None) -> None:
  """Train an arm, when its partner's records are there."""
  stop.check()
  ratio = None
  if partner:
    partner.result()
    ratio = analysis.imposed_ratio(config, arm)
  workers = trainer.Workers(
    config.num_workers, config.backend, config.lanes_at_once)
  trainer.train(
    problem.program(arm, workers.axis_name, ratio),
    trainer.Schedule(config.steps_of(arm.domain), config.every(arm.domain),
                     config.save_seconds),
    pathlib.Path(config.workdir) / arm.part, workers=workers, stop=stop,
    config=config.defining() | {'part': arm.part}, title=arm.part)
