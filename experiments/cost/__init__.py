"""What a program costs: collectives, FLOPs and time."""
