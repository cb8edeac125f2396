"""OpenAI's Responses API, without state, over the server's one way of generating."""
