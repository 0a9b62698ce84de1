"""Rendered domains with exact masks: plain shapes for pre-training, and shifted looks for few-shot adaptation."""
