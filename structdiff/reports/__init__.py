"""Pages of an evaluation: tables, pictures, words."""
