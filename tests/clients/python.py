"""Plays a scenario on a server with the official Python SDK, and writes down what came of it.

    python python.py JOB TRANSCRIPT

JOB is a JSON file, as for `typescript.mjs`, but for `sdk`. So is the transcript.
"""

import asyncio
import json
import os
import sys
import warnings

import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client

# Seconds that a wait for something may take.
PATIENCE = 60

CONTENT = {
    "name": "Ada", "color": "blue", "username": "ada", "email": "ada@example.org", "ok": True, "check": True,
    "context": "tests",
}

# The revisions up to 2025-11-25 have what the SDK calls deprecated.
warnings.simplefilter("ignore")


def plain(value):
    """Returns a message, or a list of them, as JSON values."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


class Player:
    def __init__(self, job):
        self.modern = False
        self.heard = []
        self.asked = []
        self.log_level = None
        self.open = []
        self.client = Client(
            target(job["server"]),
            mode=job["era"],
            read_timeout_seconds=PATIENCE,
            client_info=types.Implementation(name="python", version="1.0"),
            sampling_callback=self.sample,
            elicitation_callback=self.elicit,
            list_roots_callback=self.roots,
            message_handler=self.hear,
            # It would answer from memory what shall be asked.
            cache=None,
        )

    async def sample(self, _context, params):
        self.asked.append({"method": "sampling/createMessage", "params": plain(params)})
        content = types.TextContent(type="text", text="the model says hi")
        return types.CreateMessageResult(role="assistant", model="a-model", stop_reason="endTurn", content=content)

    async def elicit(self, _context, params):
        self.asked.append({"method": "elicitation/create", "params": plain(params)})
        return types.ElicitResult(action="accept", content=CONTENT)

    async def roots(self, _context):
        self.asked.append({"method": "roots/list", "params": {}})
        return types.ListRootsResult(roots=[types.Root(uri="file:///some/where", name="somewhere")])

    async def hear(self, message):
        if isinstance(message, Exception):
            raise message
        heard = plain(message)
        # Each call has its progress in its own entry.
        if heard["method"] != "notifications/progress":
            self.heard.append({"method": heard["method"], "params": heard.get("params", {})})

    async def play(self, step, entry):
        match step:
            case {"list": what}:
                return await self.list(what)
            case {"call": _}:
                return plain(await self.call(step, entry))
            case {"read": uri}:
                return plain(await self.client.read_resource(uri))
            case {"prompt": name}:
                return plain(await self.client.get_prompt(name, step.get("arguments")))
            case {"complete": {"ref": ref, "argument": argument}}:
                kind = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
                return plain(await self.client.complete(kind[ref["type"]](**ref), argument))
            case {"level": level}:
                return await self.set_level(level)
            case {"watch": uri}:
                return await self.watch(uri)
            case {"until": method, "count": count}:
                return await self.until(method, count)
        raise ValueError(f"no such step: {step}")

    async def list(self, what):
        """Returns all items of a list, page by page."""
        method, member = {
            "tools": (self.client.list_tools, "tools"),
            "prompts": (self.client.list_prompts, "prompts"),
            "resources": (self.client.list_resources, "resources"),
            "templates": (self.client.list_resource_templates, "resource_templates"),
        }[what]
        items, cursor = [], None
        while True:
            page = await method(cursor=cursor)
            items += getattr(page, member)
            cursor = page.next_cursor
            if cursor is None:
                return plain(items)

    async def call(self, step, entry):
        """Calls a tool. `cancel` withdraws the call at its first progress, `timeoutMs` when that has passed."""
        options = {"read_timeout_seconds": step.get("timeoutMs", PATIENCE * 1000) / 1000}
        withdrawn = asyncio.Event()
        if step.get("progress") or step.get("cancel"):
            entry["progress"] = []

            async def on_progress(progress, total, _message):
                # The last one is left out, as in `typescript.mjs`.
                if not withdrawn.is_set() and progress != total:
                    entry["progress"].append({"progress": progress, "total": total})
                if step.get("cancel"):
                    withdrawn.set()

            options["progress_callback"] = on_progress
        if self.modern and self.log_level:
            options["meta"] = {"io.modelcontextprotocol/logLevel": self.log_level}
        calling = asyncio.create_task(self.client.call_tool(step["call"], step.get("arguments", {}), **options))
        if step.get("cancel"):
            await withdrawn.wait()
            calling.cancel()
        return await calling

    async def set_level(self, level):
        self.log_level = level
        return {} if self.modern else plain(await self.client.set_logging_level(level))

    async def watch(self, uri):
        """Has changes of a resource, and of the prompts, told."""
        if not self.modern:
            return plain(await self.client.subscribe_resource(uri))
        watching = self.client.listen(resource_subscriptions=[uri], prompts_list_changed=True)
        await watching.__aenter__()
        self.open.append(watching)
        return {}

    async def until(self, method, count):
        async with asyncio.timeout(PATIENCE):
            while sum(message["method"] == method for message in self.heard) < count:
                await asyncio.sleep(0.005)
        return {}


def target(server):
    if "url" in server:
        return server["url"]
    parameters = StdioServerParameters(
        command=server["command"], args=server["args"], env=server.get("env"), cwd=server.get("cwd")
    )
    return stdio_client(parameters, errlog=open(os.devnull, "w"))


async def main(job_file, transcript_file):
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    player = Player(job)
    async with player.client as client:
        server = {
            "info": plain(client.server_info) if client.server_info else None,
            "capabilities": plain(client.server_capabilities),
            "instructions": client.instructions,
            "revision": client.protocol_version,
        }
        player.modern = client.protocol_version == "2026-07-28"
        steps = []
        for step in job["steps"]:
            entry = {"step": step}
            try:
                entry["result"] = await player.play(step, entry)
            except MCPError as error:
                entry["error"] = plain(error.error)
            except asyncio.CancelledError:
                entry["error"] = {"message": "cancelled"}
            steps.append(entry)
        for watching in player.open:
            await watching.__aexit__(None, None, None)
    with open(transcript_file, "w", encoding="utf-8") as file:
        json.dump({"server": server, "steps": steps, "heard": player.heard, "asked": player.asked}, file)


asyncio.run(main(*sys.argv[1:]))
