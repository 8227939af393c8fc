"""``python -m mochi.bedrock`` is the command ``bedrock``."""

from mochi.bedrock.cli import bedrock

bedrock(prog_name="bedrock")
