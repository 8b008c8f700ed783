"""Trains any model: one loop, its checkpoints, records and signals."""
