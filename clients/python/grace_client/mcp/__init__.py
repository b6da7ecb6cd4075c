"""An MCP server, so that agents retrieve with reasons in hand. `pip install 'grace-client[mcp]'`, then `grace-mcp`."""
