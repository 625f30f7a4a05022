"""What a run would do and why, and files that lock its inputs."""
