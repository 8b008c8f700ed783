"""Shows a run: one page that opens offline, or a view for a terminal.

  python -m experiments.report runs/mine            # writes runs/mine/report.html
  python -m experiments.report runs/mine --live     # again and again, as it trains
  python -m experiments.report runs/mine --terminal
  python -m experiments.report runs/mine runs/other # what differs

It reads files alone: `metrics.jsonl`, `timing.jsonl` and what lies beside them.
It needs no JAX, and what is not in the records is left out. `reading` finds and
reads them, `columns` makes arrays of them, `quantities` what follows from these,
such as the noise scale. `figures` says what to draw of one part and `groups` of
several, `plots` and `marks` draw it, `page` and `comparing` put it together.
"""

from experiments.report.writing import write_at_end as write_at_end
