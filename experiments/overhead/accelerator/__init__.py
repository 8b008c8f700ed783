"""What gradiv costs on one accelerator, beside its peers there."""
