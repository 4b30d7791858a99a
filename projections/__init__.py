"""The core: the event contract, the fold, the read model's tables, and every write to them."""
