"""The data of the fourth paper: splits, noise and balance."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest

from experiments.agreement_filtering import arms as agreement_arms, task
from tests.experiments import prepared
from tests.experiments.agreement_filtering.small import SMALL
from tests.experiments.data import fakes


class ProblemTest(absltest.TestCase):

  def test_splits_do_not_meet_and_noise_is_as_asked(self):
    problem = task.Task(
      dataclasses.replace(SMALL, data_dir=prepared.folder()))
    images = [np.asarray(x).reshape(len(x), -1) for x in (
      problem.arrays['image'], problem.arrays['validation']['image'],
      problem.test.arrays['image'])]
    self.assertEqual([len(x) for x in images], [1149, 288, 360])
    held = {row.tobytes() for x in images[1:] for row in x}
    self.assertEmpty(held & {row.tobytes() for row in images[0]})
    for seed in (0, 1):
      wrong = problem.labels(0.5, seed) != problem.clean
      self.assertEqual(wrong.sum(), round(0.5 * 1149))
    self.assertTrue((problem.labels(0.5, 0) != problem.labels(0.5, 1)).any())

  def test_micro_batches_are_balanced_by_the_labels_of_the_arm(self):
    problem = task.Task(
      dataclasses.replace(SMALL, data_dir=prepared.folder()))
    arms = {arm.name: arm for arm in agreement_arms.list_arms(SMALL)}
    lanes = {'noise': np.array([0., 0.5]), 'threshold': np.full(2, 2.),
             'rate': np.full(2, 0.003), 'seed': np.zeros(2, int)}
    for name, labels in (('mean', problem.labels(0.5, 0)),
                         ('mean_clean', problem.clean)):
      program = problem.program(arms[name], lanes)
      rows = program.fetch(np.arange(5))[int(program.lanes['order'][1])]
      drawn = labels[rows].reshape(5 * 3, 10)
      np.testing.assert_array_equal(
        np.sort(drawn, 1), np.tile(np.arange(10), (15, 1)))


class FakeHumanLabels(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Two labels beside the true one, as TFDS has cifar100_n."""

  name = 'cifar100_n'
  VERSION = tfds.core.Version('1.0.1')

  def _info(self):
    label = lambda n: tfds.features.ClassLabel(num_classes=n)
    features = {'image': tfds.features.Image(shape=(8, 8, 3)),
                'label': label(4), 'coarse_label': label(2),
                'noise_label': label(4), 'worker_time': np.float32}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(80),
            'test': self._generate_examples(20)}

  def _generate_examples(self, number):
    rng = np.random.default_rng(number)
    for key in range(number):
      yield key, {
        'image': fakes.encoded(
          rng.integers(0, 256, (8, 8, 3), np.uint8)), 'label': key % 4,
        'coarse_label': key % 2, 'noise_label': (key + (key % 5 == 0)) % 4,
        'worker_time': 1.}


class HumanLabelsTest(fakes.Folder):

  def test_trains_on_the_noisy_label_and_judges_by_the_true_one(self):
    self.make(FakeHumanLabels)
    problem = task.Task(dataclasses.replace(
      SMALL, dataset='cifar100_n', data_dir=str(self.root), noise_rates=(0.,),
      noisy_label_key='noise_label', validation_examples=20,
      train_examples=50))
    wrong = problem.labels(0., 0) != problem.clean
    self.assertLen(problem.clean, 50)
    self.assertBetween(wrong.sum(), 3, 20)
    self.assertTrue(((problem.labels(0., 0) - problem.clean) % 4
                     == wrong).all())


if __name__ == '__main__':
  absltest.main()
