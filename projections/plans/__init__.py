"""Plans: an operator's action is first described (what it acts on, what follows), then run once, with a reason."""
