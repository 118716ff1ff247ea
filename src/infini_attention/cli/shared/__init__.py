"""What several commands need: options, progress, tables, checks of their arguments."""
