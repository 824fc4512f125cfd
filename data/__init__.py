"""The scripts that get text and turn it into tokens; what they write lands in this folder too, and git ignores it."""
