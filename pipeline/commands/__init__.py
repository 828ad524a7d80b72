"""A file for each command: a function from typed inputs to a typed result, with no knowledge of the command line."""
