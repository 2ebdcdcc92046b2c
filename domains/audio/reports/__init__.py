"""Judging models and data of sounds."""
