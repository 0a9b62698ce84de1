"""Pages in Gradio, the only place that imports it."""
