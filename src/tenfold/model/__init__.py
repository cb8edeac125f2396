"""Models: checkpoints, architectures as data, the forward pass, tokenizers and chat templates."""
