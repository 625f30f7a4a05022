"""Keeping the matrix true: what it says, against what upstream's branches and released wheels say."""
