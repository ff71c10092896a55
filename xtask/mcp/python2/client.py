"""A client made with the Python SDK of MCP since 2026-07-28.

usage: client.py auto|legacy COMMAND [ARGUMENT ...]

Starts the server, lists its tools, calls `system__echo` three times and one at a time, and once more
with arguments that do not fit. Says what it saw as JSON, for xtask/src/clients.rs.
"""

import asyncio
import json
import os
import sys

from mcp import Client, StdioServerParameters


async def main() -> None:
    mode, command, *arguments = sys.argv[1:]
    server = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
    async with Client(server, mode=mode) as client:
        tools = await client.list_tools()
        calls = [client.call_tool("system__echo", {"text": f"call {n}"}) for n in range(3)]
        answers = [await call for call in calls]
        wrong = await client.call_tool("system__echo", {"text": 1})
        seen = {
            "version": client.protocol_version,
            "tools": [tool.name for tool in tools.tools],
            "texts": [answer.content[0].text for answer in answers],
            "structured": [answer.structured_content for answer in answers],
            "errors": [answer.is_error for answer in [*answers, wrong]],
        }
    print(json.dumps(seen))


asyncio.run(main())
