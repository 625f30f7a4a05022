"""What every room uses: errors, the workspace, options and results, cancellation, folders that builds own."""
