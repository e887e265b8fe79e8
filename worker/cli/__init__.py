"""The command ``worker``: one module a group of commands, and how all of them speak."""
