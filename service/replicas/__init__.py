"""Read replicas: verified, watched, and chosen for each read, with the primary in reserve."""
