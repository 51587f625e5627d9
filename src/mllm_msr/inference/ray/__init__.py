"""Inference on several devices and machines with Ray actors."""
