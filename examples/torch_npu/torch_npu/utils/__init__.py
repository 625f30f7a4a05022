"""What code generation fills in."""
