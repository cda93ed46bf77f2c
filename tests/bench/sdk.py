"""`python sdk.py CLI PROMPT`: the same work through the Python SDK, which is what one would write instead of a spec."""
import asyncio
import sys

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query


async def main(cli: str, prompt: str) -> int:
    options = ClaudeAgentOptions(cli_path=cli, permission_mode="bypassPermissions", allowed_tools=["Write", "Read"])
    async for message in query(prompt=prompt, options=options):
        if isinstance(message, ResultMessage):
            return int(message.is_error)
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
