"""The ``ocpproxy`` command."""
