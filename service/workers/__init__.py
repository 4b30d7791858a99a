"""The supervisor of an API's worker processes, and what it and a worker exchange."""
