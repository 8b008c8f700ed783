"""What runs elsewhere is pinned, and may write nothing."""

import pathlib
import re

from absl.testing import absltest

WORKFLOWS = sorted((
  pathlib.Path(__file__).parents[1] / '.github' / 'workflows').glob('*.yml'))


class WorkflowsTest(absltest.TestCase):

  def test_each_action_is_named_by_the_hash_of_its_commit(self):
    used = [line.split('uses:')[1].strip() for path in WORKFLOWS
            for line in path.read_text().splitlines() if 'uses:' in line]
    self.assertNotEmpty(used)
    for action in used:
      self.assertRegex(action, r'^[\w/-]+@[0-9a-f]{40}  # v\d')

  def test_the_token_may_read_and_no_more(self):
    for path in WORKFLOWS:
      text = path.read_text()
      self.assertEqual(
        re.findall(r'permissions:\s*(.+)', text), ['contents: read'])
      self.assertEqual(text.count('actions/checkout'),
                       text.count('persist-credentials: false'))


if __name__ == '__main__':
  absltest.main()
