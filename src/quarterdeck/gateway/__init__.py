"""The model side: wire formats, and the scripted model that answers in them on loopback."""
