"""`python -m apps` starts the page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: waiting threads leave the cores to others


def main() -> None:
    """Reads the options, starts the server, and stays until it is stopped."""
    options = _options()
    try:
        from apps.page import build_app, launch
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; the app needs its extra: pip install sam3-workbench[apps]") from error
    if options.host not in ("127.0.0.1", "localhost") and not options.auth:
        print("Everybody who reaches this machine can use the page; --auth USER:PASSWORD asks for a password.")
    blocks = build_app(options.data, options.model or ("tiny",), keep_days=options.keep_days, device=options.device)
    auth = tuple(options.auth.split(":", 1)) if options.auth else None
    url = launch(
        blocks,
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=auth,
        prevent_thread_lock=True,
    )
    print(f"SAM 3 Workbench: {url} (Ctrl-C ends it; trainings are saved and can be resumed)", flush=True)
    blocks.block_thread()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="workbench app", description="Segment, label, adapt, compare: in the browser."
    )
    parser.add_argument("--model", action="append", help="tiny, a weight file, a folder or a hub id; can be repeated")
    parser.add_argument("--data", type=Path, default=Path("runs/app"), help="folder for what visitors bring and make")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; then use --auth")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for them")
    parser.add_argument("--share", action="store_true", help="a public address by Gradio's service; then use --auth")
    parser.add_argument(
        "--keep-days", type=float, default=7.0, help="unused folders of visitors are deleted after them"
    )
    parser.add_argument("--device", help="for instance cpu or cuda; the first CUDA device if there is one")
    options = parser.parse_args()
    if options.auth and ":" not in options.auth:
        parser.error(f"--auth received {options.auth!r}; expected USER:PASSWORD")
    return options


if __name__ == "__main__":
    main()
