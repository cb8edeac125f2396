"""Anthropic's Messages API over the server's one way of generating."""
