"""What clients depend on: the contracts as they were recorded, and their comparison with the code's."""
