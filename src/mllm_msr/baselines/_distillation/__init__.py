"""Distillation of the MLLM into the student: pairs for the teacher, its lists, and the loss."""
