"""The `__main__` of every paper: flags, the study, and the exit code."""

import sys

from absl import flags as absl_flags

from experiments.common import flags, study as study_lib


def main(study: study_lib.Study, cls: type[flags.Config]) -> None:
  """Parse the flags, run the study, and set the exit code.

  0 after a whole run; 2 for a bad flag; 1 for data or a disk that is not there;
  130 after Ctrl-C and 143 after SIGTERM, with everything saved.
  """
  from experiments import data
  from experiments.engine import checkpoints, signals, trainer
  try:
    config = flags.parse(cls, sys.argv)
    study_lib.run(study, config, report_only=config.report)
  except (absl_flags.Error, flags.UsageError) as error:
    print(f'{error}\n--help lists the flags', file=sys.stderr)
    raise SystemExit(2) from None
  except signals.Interrupted as stopped:
    print(f'{stopped}; the same command goes on from there', file=sys.stderr)
    raise SystemExit(stopped.exit_code) from None
  except (data.DataUnavailableError, checkpoints.CheckpointError,
          trainer.OtherRunError, OSError) as error:
    print(error, file=sys.stderr)
    raise SystemExit(1) from None
