"""What a step costs: seconds from its shape, learned from the steps themselves."""
