"""Shared by the baselines that ask a language model: LLaVA zero-shot and TALLRec."""
