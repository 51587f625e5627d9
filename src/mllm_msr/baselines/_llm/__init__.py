"""Shared parts of the baselines that prompt a language model: LLaVA zero-shot and TALLRec."""
