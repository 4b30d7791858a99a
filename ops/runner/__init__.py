"""The process that executes operators' plans: `membership jobs run`."""
