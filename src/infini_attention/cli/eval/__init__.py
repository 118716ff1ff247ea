"""The `infini eval` commands: one module per task, or per few that are alike."""
