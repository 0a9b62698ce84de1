"""How the pages look: one calm theme with fonts that are there already, and colours that everybody can tell apart."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no request leaves the machine

import gradio as gr  # noqa: E402

_FONT = ["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_BLUE = gr.themes.Color(
    "#eef5fb",
    "#d9e9f6",
    "#b3d3ec",
    "#80b5dd",
    "#4a92cb",
    "#0b5cad",
    "#0b5cad",
    "#094b8d",
    "#083c70",
    "#062d54",
    "#041f3a",
)


def theme() -> gr.themes.ThemeClass:
    return gr.themes.Base(
        primary_hue=_BLUE,
        neutral_hue="slate",
        radius_size="md",
        spacing_size="md",
        font=_FONT,
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        body_background_fill="#f3f5f7",
        body_text_color_subdued="#4a5561",
        block_info_text_color="#4a5561",
        block_label_text_color="#3d4752",
        block_title_text_color="#3d4752",
        input_placeholder_color="#5b6672",
        block_border_width="1px",
        block_label_background_fill="white",
        block_title_text_weight="600",
        button_primary_background_fill="#0b5cad",
        button_primary_background_fill_hover="#094b8d",
        button_primary_text_color="white",
        slider_color="#0b5cad",
    )


CSS = """
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; padding: 12px 16px !important; }
.gradio-container > .main.app { padding: 4px 0 !important; }
.sw-head .column { gap: 8px; }
.sw-title .md { display: flex; flex-wrap: wrap; gap: 0 14px; align-items: baseline; }
.sw-title h1 { font-size: 22px; margin: 0; }
.sw-title p { margin: 0; color: #4a5561; }
.sw-banner { background: #fff8e6; border: 1px solid #e9d9a8; border-radius: 8px; padding: 8px 12px; }
.sw-banner { padding: 5px 12px !important; }
.sw-banner p { margin: 0; font-size: 13.5px; line-height: 1.4; }
.sw-banner .sw-banner, .sw-status .sw-status { border: 0; background: none; padding: 0 !important; min-height: 0; }
.sw-hint, .sw-hint p { color: #4a5561; font-size: 14px; }
.sw-status { background: #fff; border: 1px solid #d7dde3; border-radius: 8px; padding: 8px 12px; min-height: 42px; }
.sw-status p { margin: 0 0 4px; }
.sw-bar { height: 10px; border-radius: 5px; background: #e3e8ed; overflow: hidden; margin: 4px 0 2px; }
.sw-bar div { height: 100%; background: #0b5cad; }
.sw-clickable img { cursor: crosshair; width: 100% !important; height: 100% !important; }
.sw-clickable img { object-fit: contain !important; }
.sw-models { padding: 6px 12px !important; align-self: flex-start; }
.wrap-inner input { text-overflow: ellipsis; }
.html-container:has(.sw-annotator) { padding: 0 !important; }
.table-container, .tab-wrapper { contain: inline-size; width: 100%; }
.table-container { overflow-x: auto !important; }
footer { display: none !important; }
@media (max-width: 640px) {
  .gradio-container { padding: 8px !important; }
  .tab-container button { padding: 0 9px !important; }
  .sw-head { flex-wrap: wrap !important; }
  .sw-head > * { min-width: 100% !important; }
  .sw-title h1 { font-size: 19px; }
}
"""
