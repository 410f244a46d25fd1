"""The article reproduced: its experiments and its claims as data, and what running them says."""
