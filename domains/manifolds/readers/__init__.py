"""Readers: tables of text and arrays of an npz, as columns of numbers and words."""
