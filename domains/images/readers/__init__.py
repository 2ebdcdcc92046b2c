"""Where images come from: arrays, files, archives."""
