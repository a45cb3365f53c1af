"""What `python -m vi` does."""
