"""Judging models of points."""
