"""Readers: files of molecules, one format each, and named data sets."""
