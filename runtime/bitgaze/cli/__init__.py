"""The `bitgaze` command."""
