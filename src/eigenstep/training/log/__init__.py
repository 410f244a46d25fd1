"""What a monitor writes down: its records, where they go, how they are read again."""
