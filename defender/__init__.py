"""The Defender: the agent that runs on every host and reports to its Console."""

from defender.causes import Cause, ExitCode
from defender.settings import Address, DefenderSettings

__all__ = ["Address", "Cause", "DefenderSettings", "ExitCode"]
