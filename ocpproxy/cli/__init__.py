"""The ``ocpproxy`` command: one module for each subcommand, and `main`."""
