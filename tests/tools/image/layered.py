"""What the layers of test_venvs.py hold."""
