"""In which proportions to mix domains of training text."""
