"""The tracker: objects segmented from clicks, boxes and masks, and followed from frame to frame with a memory."""
