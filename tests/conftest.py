"""Makes this folder importable, so that every test can use `models.py`."""
