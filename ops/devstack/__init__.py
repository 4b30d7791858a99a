"""`membership dev`: the whole service on one machine, supervised, with a demo data set."""
