"""What poolkeeper costs and what it saves, measured; see README.md for the method."""
