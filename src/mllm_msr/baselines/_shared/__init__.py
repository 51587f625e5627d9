"""Parts that all baselines share: fitted state, catalogs and saving."""
