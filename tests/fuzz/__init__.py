"""What no one thought of: drawn arguments of the library and of the papers.

`make fuzz` draws 2,000 uses of the library and 300 command lines, and prints
its seed. A few, always the same, are part of `make test`.
"""
