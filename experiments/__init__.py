"""The papers: each module reproduces one, and imports gradiv."""
