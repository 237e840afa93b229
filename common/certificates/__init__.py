"""Certificate sets: their model, the loader that judges them, the authority that makes them."""
