"""What is seen of a running server: Prometheus metrics and request timelines."""
