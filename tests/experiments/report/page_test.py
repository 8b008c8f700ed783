"""The page of a run: what it shows, and that it is safe and whole."""

import html.parser
import json
import pathlib
import re
import tempfile

from absl.testing import absltest

from experiments.report import comparing, markup, page, reading, verdicts
from tests.experiments.report import folders


class _Reader(html.parser.HTMLParser):
  """Collects tags and text, and checks that tags are closed in order."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.text, self.headings = [], [], '', []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('meta', 'img', 'br'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open and self.open[-1] == tag, (self.open, tag)
    self.open.pop()

  def handle_data(self, data):
    if not {'style', 'script'} & set(self.open):
      self.text += data
    if self.open and self.open[-1] in ('h1', 'h2', 'h3', 'h4'):
      self.headings.append(data)


class PageTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(
      tempfile.TemporaryDirectory())) / 'mine'

  def page_of(self, make, refresh=0., **options):
    return page.of_run(reading.read(make(self.folder, **options)), refresh)

  def check(self, text):
    """Check that a page is whole, safe, and asks for nothing."""
    read = _Reader(text)
    self.assertEmpty(read.open)
    self.assertEqual([tag for tag, _ in read.tags].count('script'), 1)
    for tag, attributes in read.tags:
      for name in ('src', 'href'):
        value = attributes.get(name, 'data:')
        self.assertStartsWith(value, 'data:', (tag, attributes))
      self.assertFalse([x for x in attributes if x.startswith('on')])
      if tag == 'svg' and 'role' in attributes:
        self.assertTrue(attributes['aria-label'])
      if tag == 'img':
        self.assertTrue(attributes['alt'])
    self.assertNotIn('@import', text)
    self.assertNotIn('url(', text)
    return read

  def test_a_fit_shows_all_that_it_recorded(self):
    read = self.check(self.page_of(folders.of_fit))
    self.assertIn('Batch 64 is far below B_S.', read.text)
    for heading in (
        'loss', 'accuracy', 'Batch-size bound B_S', 'Signal against noise',
        'Gauges of the mean gradient, by workers', 'Cosines between workers',
        'Cosines between workers at step 8', 'B_S of each layer',
        'Gradient norms of single examples at step 8', 'Speed',
        'Configuration', 'Versions'):
      self.assertIn(heading, read.headings)
    self.assertIn('row 119: 20 (1.9 × the median); row 118: 19', read.text)
    self.assertIn(folders.EVIL, read.text)  # as text

  def test_what_is_not_recorded_is_left_out(self):
    folders.write_lines(self.folder / 'metrics.jsonl', [
      {'step': i, 'loss': 1. / (i + 1)} for i in range(3)])
    read = self.check(page.of_run(reading.read(self.folder)))
    self.assertEqual(read.headings, ['mine', 'Training', 'loss'])

  def test_a_study_shows_claims_and_pictures(self):
    read = self.check(self.page_of(folders.of_study))
    self.assertIn('Claims: 1 hold, 1 unknown', read.headings)
    self.assertIn('1.5 × [1.25, 1.75] · holds if ≥ 1 × · paper 2 ×', read.text)
    self.assertIn(f'A paper {folders.EVIL}', read.text)
    self.assertIn('Each line is the median of the trainings', read.text)
    self.assertIn(('img', {
      'src': 'data:image/png;base64,iVBORw==', 'alt': 'A curve',
      'loading': 'lazy'}), read.tags)
    self.assertNotIn('data_dir', read.text)  # empty flags tell nothing

  def test_only_a_page_that_is_live_loads_itself_anew(self):
    text = self.page_of(folders.of_fit, refresh=5.)
    self.assertIn('<meta http-equiv="refresh" content="5">', text)
    self.assertNotIn('http-equiv', self.page_of(folders.of_fit))

  def test_bytes(self):
    self.assertLess(len(self.page_of(folders.of_fit)), 100_000)

  def test_status(self):
    run = reading.read(folders.of_fit(self.folder, is_done=False))
    self.assertStartsWith(page.status(run), 'Not finished · step 8 · last')
    run = reading.read(folders.of_study(self.folder.with_name('other')))
    self.assertStartsWith(
      page.status(run), 'Finished · 2 of 2 parts are finished · last record')

  def test_parts_that_have_not_begun_count(self):
    folders.of_study(self.folder)
    path = self.folder / 'config.json'
    names = ['sweep/batch_8', 'sweep/batch_16', 'twins']
    folders.write(path, json.loads(path.read_text()) | {'parts': names})
    status = lambda: page.status(reading.read(self.folder))
    self.assertStartsWith(
      status(), 'Not finished · 2 of 3 parts are finished · last record')
    (self.folder / 'sweep/batch_8/lanes_00/done.json').unlink()
    (self.folder / '.lock').write_text('process 1 on another-host')
    self.assertStartsWith(
      status(), 'Training · 1 of 3 parts are finished, 1 running · last record')
    read = self.check(page.of_run(reading.read(self.folder)))
    self.assertIn('training, sum over the parts', read.text)

  def test_of_two_roundings_the_second_is_said_to_follow(self):
    folders.of_study(self.folder)
    path = self.folder / 'config.json'
    config = json.loads(path.read_text())
    config['flags']['roundings'] = 2
    folders.write(path, config)
    (self.folder / '.lock').write_text('process 1 on another-host')
    self.assertStartsWith(
      page.status(reading.read(self.folder)),
      'Training · 2 of 2 parts are finished, then the second rounding · last')


class ComparingTest(absltest.TestCase):

  def compare(self, first, second):
    return comparing.of_runs(*map(reading.read, (first, second)))

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(
      tempfile.TemporaryDirectory()))

  def test_what_differs(self):
    text = self.compare(
      folders.of_study(self.folder / 'a'),
      folders.of_study(self.folder / 'b', rate=0.2, verdict='open'))
    read = PageTest.check(self, text)
    self.assertIn('Claims: 1 of 2 verdicts differ', read.headings)
    table, = re.findall('<table>.*?</table>', text.split('Versions')[0])
    self.assertEqual(re.findall('<code>(.*?)</code>', table),
                     ['rate', '0.1', '0.2'])
    self.assertIn('sweep/batch_8: loss', read.headings)
    # The versions.
    self.assertIn('What is recorded is the same in both.', read.text)
    self.assertNotIn('Not recorded', read.text)
    self.assertEqual(read.text.count('It holds & more.'), 2)

  def test_two_fits_are_a_pair(self):
    read = PageTest.check(self, self.compare(
      folders.of_fit(self.folder / 'a' / 'run'),
      folders.of_fit(self.folder / 'b' / 'run', steps=4)))
    self.assertIn('batch-size bound B_S', read.headings)
    self.assertIn(str(self.folder / 'a' / 'run'), read.text)
    for name in 'ab':
      self.assertIn(f'{self.folder / name}/run: batch 64 is far below B_S.',
                    read.text)

  def test_without_a_configuration_nothing_is_called_the_same(self):
    one, other = (folders.of_fit(self.folder / name) for name in 'ab')
    meta = one / 'checkpoints/step_00000008/meta.json'
    recorded = json.loads(meta.read_text())
    for path, more in ((one, {}), (other, {'rate': 0.1})):
      folders.write(path / 'checkpoints/step_00000008/meta.json', recorded | {
        'config': {'seed': 0, 'num_workers': 1} | more})
    read = PageTest.check(self, self.compare(one, other))
    self.assertIn(
      'Not recorded for a: model, optimizer, learning rate and whatever else '
      'may differ. To see it here, pass it to engine.fit, such as '
      "config={'learning_rate': 0.1}.", read.text)
    read = PageTest.check(self, self.compare(one, one))
    self.assertIn('Not recorded for', read.text)

  def test_nothing_in_common(self):
    read = PageTest.check(self, self.compare(
      folders.of_fit(self.folder / 'a'), folders.of_study(self.folder / 'b')))
    self.assertIn('1 parts of a have no counterpart', read.text)
    self.assertIn('Claims: 2 only in b', read.headings)


class ClaimTest(absltest.TestCase):

  def shown(self, **changed):
    """Return a claim's text, and the texts of its ticks."""
    text = verdicts.listed([{
      'text': '`f` of `g` grows', 'measured': [0.7, 0.5, 1.002],
      'allowed': [1., None], 'verdict': 'open'} | changed])
    return text, re.findall('<text[^>]*>(.*?)</text>', text)

  def test_an_end_beside_the_range_is_told_from_its_limit(self):
    text, ticks = self.shown()
    self.assertIn('0.7 [0.5, 1.002]', text)
    self.assertEqual(ticks, ['0.6', '0.8', '1'])

  def test_numbers_of_other_magnitude_leave_room_for_the_interval(self):
    _, ticks = self.shown(paper=17.7)
    self.assertEqual(ticks, ['1', '3', '10'])  # logarithmic

  def test_shares_are_ticked_in_percent(self):
    _, ticks = self.shown(unit='%', measured=[0.97, 0.95, 0.99],
                          allowed=[0.9, None])
    self.assertEqual(ticks, ['90 %', '95 %', '100 %'])

  def test_backticks_are_code(self):
    text, _ = self.shown(note='`x < y`')
    self.assertIn('<code>f</code> of <code>g</code> grows', text)
    self.assertIn('<code>x &lt; y</code>', text)


class EscapeTest(absltest.TestCase):

  def test_raw_is_made_by_tag_alone(self):
    """No module of the report calls `Raw` but those that hold own text."""
    folder = pathlib.Path(markup.__file__).parent
    users = {path.name for path in folder.glob('*.py')
             if re.search(r'\bRaw\(', path.read_text())}
    self.assertEqual(users, {'markup.py', 'page.py'})


if __name__ == '__main__':
  absltest.main()
