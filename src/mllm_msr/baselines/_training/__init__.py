"""How baselines learn: histories as integers, what an epoch draws, one loop, one judge."""
