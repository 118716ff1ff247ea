"""Teaching a memory to remember: recipes, curriculum, parameter groups, and Trainer glue."""
