"""A client made with the Python SDK of MCP before 2026-07-28.

usage: client.py COMMAND [ARGUMENT ...]

Starts the server, lists its tools, calls `system__echo` three times and one at a time, and once more
with arguments that do not fit. Says what it saw as JSON, for xtask/src/clients.rs.
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main() -> None:
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        hello = await session.initialize()
        tools = await session.list_tools()
        calls = [session.call_tool("system__echo", {"text": f"call {n}"}) for n in range(3)]
        answers = [await call for call in calls]
        wrong = await session.call_tool("system__echo", {"text": 1})
        seen = {
            "version": hello.protocolVersion,
            "tools": [tool.name for tool in tools.tools],
            "texts": [answer.content[0].text for answer in answers],
            "structured": [answer.structuredContent for answer in answers],
            "errors": [answer.isError for answer in [*answers, wrong]],
        }
    print(json.dumps(seen))


asyncio.run(main())
