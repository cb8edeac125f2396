"""Who runs in the next step: queues, chunked prefill, preemption. Pure state transitions, no model."""
