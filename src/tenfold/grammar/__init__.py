"""What a constrained text may go on with."""
