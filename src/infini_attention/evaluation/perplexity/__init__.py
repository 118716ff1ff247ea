"""How well whole texts are predicted, with the memory and without it."""
