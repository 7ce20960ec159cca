"""A student that learns inside a loop that is not ours; it steps no environment."""
