"""Kills every paper at random moments, and compares its end with a whole run.

  python -m tests.soak --kills=50 --papers=adascale,decentralized --seed=3

`binaries` are the commands, small; `moments` say when to kill; `killed` starts,
kills and starts again; `ends` compares two folders bit for bit.
"""
