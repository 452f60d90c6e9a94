"""The commands: their flags, what they print and how they end; many of them as a campaign."""
