"""Many targets on this machine: their order, their run from beginning to end, and its summary."""
