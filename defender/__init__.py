"""The Defender: the agent that runs on every host and reports to its Console."""
