"""How `make site` builds the site: `sphinx-build -c docs . build/site`.

The sources are the Markdown files where they lie, so that they read the same
in the repository and on the site. `docs/_toc.yml` says in which order they
come, `docs/api` has the reference.
"""

import re

import gradiv

project = 'gradiv'
author = 'The gradiv authors'
copyright = '2026, the gradiv authors'
version = release = gradiv.__version__

extensions = [
  'myst_parser',
  'sphinx_external_toc',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.napoleon',
]
external_toc_path = 'docs/_toc.yml'
# What the table of contents names.
include_patterns = [
  'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/**',
  'gradiv/per_example/README.md']
exclude_patterns = ['docs/_templates', 'docs/_static', '.venv', 'build', 'runs']

myst_heading_anchors = 3

# A name in a docstring links to its entry, where it has one.
default_role = 'py:obj'
add_module_names = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autosummary_generate = False
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Shows what a diff adds in green.
pygments_style = 'default'
html_theme = 'furo'
html_title = f'gradiv {release}'
html_copy_source = False
html_show_sphinx = False
html_static_path = ['_static']
html_css_files = ['site.css']
templates_path = ['_templates']
# The root of the site leads to the first page.
html_additional_pages = {'index': 'redirect.html'}
html_theme_options = {
  'source_repository': 'https://github.com/gradiv/gradiv/',
  'source_branch': 'main',
  'source_directory': '',
}


def render_formulas(app, what, name, obj, options, lines):
  """Show indented formulas and tables as they stand in a docstring.

  Also keep `|` from being read as a substitution. The sections of arguments
  are left to napoleon.
  """
  shown, in_block = [], False
  end = next((i for i, line in enumerate(lines)
              if re.match(r'(Args|Returns|Raises|Attributes):$', line)),
             len(lines))
  for i, line in enumerate(lines):
    starts = i < end and line.startswith('  ') and not lines[i - 1].strip()
    if starts and not in_block:
      shown += ['::', '']
    in_block = starts or (in_block and (not line or line.startswith('  ')))
    is_code = in_block or line.startswith(('>>>', '...'))
    shown.append(line if is_code else line.replace('|', r'\|'))
  lines[:] = shown


def setup(app):
  # Before napoleon, whose priority is 500.
  app.connect('autodoc-process-docstring', render_formulas, priority=400)
