"""`mcp`: offer a finished run to AI assistants as an MCP server."""

from __future__ import annotations

from pathlib import Path

from mllm_msr.cli._app import register
from mllm_msr.cli._options import Overrides, RunOption, settings_help
from mllm_msr.cli._serve import require_serving
from mllm_msr.errors import MissingExtraError


@register("mcp", "Offer a run to AI assistants (MCP)", cls=settings_help("retrieve", "serve"))
def command(settings: Overrides = None, run: RunOption = Path("runs/run")) -> None:
    """Offer a run to AI assistants over the Model Context Protocol, on stdin and stdout.

    The tools are recommend, explain and record_event. The assistant starts this command itself.
    """
    require_serving()
    try:
        import mcp as package
    except ImportError as error:
        raise MissingExtraError(error.name or "mcp", "mcp") from error
    del package
    from mllm_msr.serving.mcp_server import serve_stdio

    serve_stdio(run, overrides=settings or ())
