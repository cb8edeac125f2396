"""What service objectives give: each module shows one thing, on the real model, policies side by side in one run."""
