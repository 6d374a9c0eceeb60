"""Files written by released versions and by the older tools with this format. They are never written again."""
