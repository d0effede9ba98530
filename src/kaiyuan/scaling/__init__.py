"""What to train with a given budget: the paper's scaling law, fits of one's own runs, and plans made from a config."""
