"""Shared parts of the baselines that encode a history as a sequence: SASRec, GRU4Rec, Trans2D."""
