"""The detector: everything between the image encoder and the masks of one picture."""
