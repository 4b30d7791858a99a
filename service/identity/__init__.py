"""Bearer tokens: the keys that verify them, the claims that name the caller, and why a credential is refused."""
