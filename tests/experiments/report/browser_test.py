"""Pages in headless Chromium: no error, no overflow, values under the pointer.

A frame of each width holds the page; a probe in it tells the page around it
what it sees, and Chromium writes that down.
"""

import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from absl.testing import absltest, parameterized

from experiments.report import comparing, page, reading
from tests.experiments.report import folders

CHROMIUM = next(filter(None, map(shutil.which, (
  'chromium', 'chromium-browser', 'google-chrome'))), None)
PROBE = '''<script>
onload = () => {
  const root = document.documentElement, said = [];
  for (const details of document.querySelectorAll('details'))
    details.open = true;
  for (const plot of document.querySelectorAll('.plot')) {
    const box = plot.getBoundingClientRect();
    plot.dispatchEvent(new PointerEvent('pointermove', {
      clientX: box.left + box.width / 2, clientY: box.top + 100 }));
    const tip = plot.querySelector('.tip');
    const at = tip ? tip.getBoundingClientRect() : box;
    const isInside = at.left >= 0 && at.right <= innerWidth;
    said.push([tip ? tip.textContent : '', isInside]);
    plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
  }
  const tables = [...document.querySelectorAll('.times')].map(
    x => [x.parentNode.scrollWidth, x.parentNode.clientWidth]);
  parent.postMessage({ tables,
    width: innerWidth, scroll: root.scrollWidth, said,
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    paper: getComputedStyle(document.body).backgroundColor,
    letters: Math.min(...[...document.querySelectorAll('.plot text')].map(
      x => parseFloat(getComputedStyle(x).fontSize))) }, '*');
};
</script>'''


def probe(text: str, width: int, scheme: str) -> tuple[list, list[str]]:
  """Return the messages from the page, that of the probe last, and the lines of
  the console."""
  with tempfile.TemporaryDirectory() as folder:
    inner = html.escape(text.replace('</body>', f'{PROBE}</body>'))
    outer = pathlib.Path(folder) / 'outer.html'
    outer.write_text(
      '<!doctype html><meta charset="utf-8"><script>const all = []; '
      'onmessage = e => { all.push(e.data); '
      'document.body.dataset.seen = JSON.stringify(all) }</script>'
      f'<body><iframe srcdoc="{inner}" width="{width}" height="900"></iframe>')
    done = subprocess.run([
      CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu',
      '--hide-scrollbars', '--enable-logging=stderr', '--window-size=1500,1000',
      f'--user-data-dir={folder}/user', '--virtual-time-budget=10000',
      f'--blink-settings=preferredColorScheme={int(scheme == "light")}',
      '--dump-dom', str(outer)], capture_output=True, text=True, timeout=120)
  seen = re.search(r'data-seen="([^"]*)"', done.stdout)
  return json.loads(html.unescape(seen[1])), [
    line for line in done.stderr.splitlines() if 'CONSOLE' in line]


@pytest.mark.skipif(CHROMIUM is None, reason='no chromium is installed')
class BrowserTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      fit = reading.read(folders.of_fit(folder / 'fit'))
      other = reading.read(folders.of_fit(folder / 'another', steps=4))
      study = reading.read(folders.of_study(folder / 'study'))
      cls.pages = {'fit': page.of_run(fit), 'study': page.of_run(study),
                   'both': comparing.of_runs(fit, other)}

  @parameterized.product(
    name=('fit', 'study', 'both'), width=(400, 1400), scheme=('light', 'dark'))
  @pytest.mark.slow
  def test_page(self, name, width, scheme):
    (seen,), console = probe(self.pages[name], width, scheme)
    self.assertEqual(console, [])
    self.assertEqual(seen['width'], width)
    self.assertLessEqual(seen['scroll'], width)
    self.assertEqual(seen['dark'], scheme == 'dark')
    self.assertEqual(seen['paper'], 'rgb(22, 24, 27)' if seen['dark'] else
                     'rgb(255, 255, 255)')
    self.assertEqual(seen['letters'], 12)  # whatever the width
    self.assertNotEmpty(seen['tables'])
    for needed, there_is in seen['tables']:
      self.assertLessEqual(needed, there_is)
    self.assertNotEmpty(seen['said'])
    for text, is_inside in seen['said']:
      self.assertNotEmpty(text)
      self.assertTrue(is_inside, text)

  @pytest.mark.slow
  def test_the_probe_sees_errors_and_what_is_too_wide(self):
    bad = self.pages['fit'].replace(
      '</body>', '<div style="width:2000px">wide</div><script>undefined.x'
      '</script></body>')
    (seen,), console = probe(bad, 400, 'light')
    self.assertGreater(seen['scroll'], 400)
    self.assertIn('TypeError', ''.join(console))

  @pytest.mark.slow
  def test_names_that_are_scripts_do_not_run(self):
    calls = self.pages['study'].replace(
      html.escape('alert("&")'), html.escape('parent.postMessage(0, "*")'))
    self.assertIn(html.escape('<script>parent'), calls)
    self.assertLen(probe(calls, 400, 'light')[0], 1)
    runs = calls.replace(
      html.escape('<script>parent.postMessage(0, "*")</script>'),
      '<script>parent.postMessage(0, "*")</script>')
    self.assertGreater(len(probe(runs, 400, 'light')[0]), 1)


if __name__ == '__main__':
  absltest.main()
