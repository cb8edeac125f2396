"""The only loop: requests in, text out, one step after another."""
