"""Reading recordings: files of a folder or an archive, and what is in each."""
