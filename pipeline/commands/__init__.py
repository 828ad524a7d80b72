"""One module per command: a function from typed options to a typed result, independent of the command line."""
