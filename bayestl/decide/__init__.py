"""Which measurement is worth its cost: acquisition functions over (candidate, task) pairs, and batches of them."""
