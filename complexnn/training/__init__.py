"""Training and testing: the loop, the task, and the terms beside it."""
