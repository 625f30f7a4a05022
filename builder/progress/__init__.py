"""What happens in a run, as events, and how it is shown: as lines, as JSON, as CI log groups, as a live table."""
