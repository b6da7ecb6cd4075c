"""How many machines: a plan from measured figures, and a simulated queue where a formula would mislead."""
