"""Errors as words on the page: what the libraries refuse is shown as they say it, and nobody sees a traceback."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import tempfile
from collections.abc import Callable
from typing import Any

import gradio as gr

_FOLDERS = re.compile(re.escape(tempfile.gettempdir()) + r"/\S*/")
_QUOTED = re.compile(r"`([^`]+)`")
_PLAIN = (ValueError, OSError, KeyError, FloatingPointError)


def spoken(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler of an event, with errors as `gr.Error`."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*values: Any, **named: Any) -> Any:
            try:
                yield from handler(*values, **named)
            except Exception as error:
                raise refusal(error) from error

        return steps

    @functools.wraps(handler)
    def step(*values: Any, **named: Any) -> Any:
        try:
            return handler(*values, **named)
        except Exception as error:
            raise refusal(error) from error

    return step


def refusal(error: Exception) -> gr.Error:
    """What the page shows of an error; the log keeps the rest of one that nobody foresaw."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, _PLAIN) and str(error):
        message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        message = _QUOTED.sub(r"“\1”", _FOLDERS.sub("", message))  # the page would show the back-ticks
        return gr.Error(message, duration=20, print_exception=False)
    if "out of memory" in str(error):
        return gr.Error(
            "The memory of the machine is not enough for this. Take a smaller picture or a smaller model.",
            print_exception=False,
        )
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return gr.Error(
        f"Something went wrong inside ({type(error).__name__}); the server's log has the details. Try again, or with "
        "another picture.",
        print_exception=False,
    )
