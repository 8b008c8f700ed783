"""What gradiv costs, as ratios within one run."""
