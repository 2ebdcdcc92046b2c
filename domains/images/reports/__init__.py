"""Judging models and data of images."""
