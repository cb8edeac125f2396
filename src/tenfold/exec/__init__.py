"""From a plan to tokens: arrays, forward pass, sampling. Owns KV memory and the samplers' state."""
