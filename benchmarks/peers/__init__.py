"""What the benchmarks compare this service with: other people's ways to the same answers, at their best."""
