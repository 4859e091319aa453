"""Inference of theta: the functions are integrated out, what remains is a few dozen numbers."""
