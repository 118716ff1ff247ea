"""Speed: ours, other implementations, and the limit of the machine, timed side by side in one run."""
