"""A server made with FastMCP, which has the official Python SDK inside; of both eras, on Streamable HTTP.

    python fastmcp_server.py PORT
"""

import asyncio
import sys
from dataclasses import dataclass

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError

server = FastMCP("fastmcp", instructions="Made for tests.")


@dataclass
class Name:
    name: str


@server.tool
def add(a: int, b: float) -> float:
    """Adds two numbers"""
    return a + b


@server.tool
def fail() -> str:
    """Fails"""
    raise ToolError("this tool fails, always")


@server.tool
async def count(context: Context) -> str:
    """Counts to three, and reports it"""
    for number in range(1, 4):
        await context.report_progress(number, 4)
        # One by one: SDK 1 for TypeScript loses what comes in one read with the result.
        await asyncio.sleep(0.05)
    return "counted"


@server.resource("data://config")
def config() -> dict:
    """A resource"""
    return {"theme": "dark"}


@server.resource("data://users/{name}")
def user(name: str) -> dict:
    """A template"""
    return {"name": name}


@server.prompt
def review(code: str) -> str:
    """A prompt"""
    return f"Please review: {code}"


if __name__ == "__main__":
    server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
