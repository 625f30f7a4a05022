"""The cluster engine: what happens on the client, what travels, and what happens on a worker machine."""
