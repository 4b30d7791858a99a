"""The heart: what events mean, the tables they become, and every write to them."""
