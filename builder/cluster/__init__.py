"""Many targets on several machines: what the client does, what travels, and what a worker does."""
