"""Backends turn images into features: on this machine (`local.py`), or on a Ray cluster (`ray`)."""
