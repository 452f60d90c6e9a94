"""Time and memory of networks, beside other libraries, and as sizes grow."""
