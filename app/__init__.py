"""The command ``cxr`` and the composition of its processes; imports all rooms, and no room imports it."""
