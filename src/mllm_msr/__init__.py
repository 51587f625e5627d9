"""MLLM-MSR: multimodal sequential recommendation with multimodal large language models."""

from __future__ import annotations

__version__ = "0.1.0"
