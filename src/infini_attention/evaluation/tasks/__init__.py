"""What is asked: each task says what its cells are, how a sample is made, and what its figures mean."""
