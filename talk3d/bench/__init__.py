"""One frame's budget: which stage takes how long, baked and unbaked."""
