"""KV memory bookkeeping: which block belongs to whom. Knows numbers only, never tensors."""
