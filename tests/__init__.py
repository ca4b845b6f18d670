"""Tests, run by trial: ``make test``."""
