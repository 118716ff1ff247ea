"""How far back a model really remembers: tasks, controls, and figures that hold."""
