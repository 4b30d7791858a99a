"""Operator maintenance of the read model: jobs, rebuilds, repairs, parked events and erasures."""
