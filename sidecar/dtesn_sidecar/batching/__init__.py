"""Dynamic batching of any function from a list of items to a list of results.

The policies are pure decisions of (state, now) and import neither asyncio nor each other; `manager` is the one
loop that asks them. Nothing here knows what an item is.
"""
