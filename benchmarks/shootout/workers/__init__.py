"""Programs that keep one engine each. They run in the peers' own environments and import nothing of this project."""
