"""Stub."""
collapse = loss_ratio = diversity = stability = None
