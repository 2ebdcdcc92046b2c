"""Judging models and data of text."""
