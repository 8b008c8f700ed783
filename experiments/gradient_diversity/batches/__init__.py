"""How gradient diversity limits the batch size: `--study=batches`."""
