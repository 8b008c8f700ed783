"""What the papers share, above the engine: flags and figures."""
