"""Experiments that reproduce four papers, and what they share.

`data`, `models` and `cost` know nothing of the rest; `engine` trains anything;
`common` holds what papers share; each paper is a folder. `report` shows what a
run has written, and knows its files alone.
"""
