"""Parts of the baselines that read a history as a sequence: SASRec, GRU4Rec, Trans2D."""
