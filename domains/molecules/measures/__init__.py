"""Measures of molecules: what distances, rates and intervals of reports are made of."""
