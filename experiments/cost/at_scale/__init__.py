"""What exchanges cost on many chips, by a small model of the network.

`exchanges` lists the collectives of each way to combine gradients, `networks`
how long a collective takes on a torus or on hosts, and `tables` lays out both.
"""
