"""Shows a run: one page that opens offline, or a view for a terminal.

  python -m experiments.report runs/mine             # writes report.html there
  python -m experiments.report runs/mine --live      # again, while it trains
  python -m experiments.report runs/mine --terminal
  python -m experiments.report runs/mine runs/other  # what differs

It reads files alone: `metrics.jsonl`, `timing.jsonl` and what lies beside them.
It needs no JAX, and what is not in the records is left out. `reading` finds the
parts of a run, `columns` makes arrays of their records, `quantities` and
`gauges` what follows from these. `figures` says what to draw of one part and
`groups` of several; `drawing` and `charts` draw it. `page` and `comparing` put
it together with `verdicts` of claims, `timing` and `settings`.
"""

from experiments.report.writing import write_at_end as write_at_end
