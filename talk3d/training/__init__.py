"""From a dataset to an avatar: stages, the loop that runs them, checkpoints and losses."""
