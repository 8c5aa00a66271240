"""NVIDIA's GPUs as their management library shows them: which there are, what they measure, whether one is broken."""
