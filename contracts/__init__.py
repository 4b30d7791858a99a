"""What clients depend on: the recorded contracts, their comparison with the code's, and TypeScript types."""
