"""Experiments about training itself; see the README in this folder."""
