"""What masks, noise and rounding do: `--study=mechanisms`."""
