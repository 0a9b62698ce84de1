"""Concepts in videos: frames read one at a time, results kept as run lengths."""
