"""Domains: how objects of each kind become records."""
