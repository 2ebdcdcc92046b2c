"""Reports: how good models and data are, in words, tables, pictures and pages."""
